"""Whole or absent."""

import os

import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.storage.atomic import atomic_path, save_text
from neuroglot.storage.tables import load_table, save_table
from neuroglot.storage.tensors import load_tensors, save_tensors


def leftovers(path):
    return [item.name for item in path.iterdir()]


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    save_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.txt") as draft:
        draft.write_text("ne")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "old"
    assert leftovers(tmp_path) == ["a.txt"]


def test_a_directory_appears_at_once(tmp_path):
    with atomic_path(tmp_path / "d") as draft:
        draft.mkdir()
        (draft / "x").write_text("1")
        assert not (tmp_path / "d").exists()
    assert (tmp_path / "d" / "x").read_text() == "1"
    assert leftovers(tmp_path) == ["d"]


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ng.NeuroglotError, match="cannot be written: .*nothing was changed"):
        save_text(tmp_path / "file" / "below.txt", "x")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(ng.NeuroglotError, match="cannot be written: No space left on device"),
        atomic_path(tmp_path / "x") as draft,
    ):
        draft.symlink_to("/dev/full")
        draft.write_text("x" * 10**6)
    assert leftovers(tmp_path) == []


def test_tensors_of_another_version_are_refused(tmp_path):
    path = save_tensors(tmp_path / "t.safetensors", "thing", 2, {"x": torch.arange(3)}, {"note": "né"})
    tensors, about = load_tensors(path, "thing", 2)
    assert tensors["x"].tolist() == [0, 1, 2] and about == {"note": "né"}
    with pytest.raises(ng.NeuroglotError, match="newer Neuroglot"):
        load_tensors(path, "thing", 1)


def test_a_tensor_without_elements_is_kept(tmp_path):
    """A recipe whose source has no neurons of its own holds one."""
    path = save_tensors(tmp_path / "x.safetensors", "recipe", 1, {"none": torch.zeros(0, 2), "one": torch.ones(1)}, {})
    tensors, _ = load_tensors(path, "recipe", 1)
    assert tensors["none"].shape == (0, 2) and float(tensors["one"]) == 1


def test_a_table_keeps_every_character_of_a_text(tmp_path):
    table = pd.DataFrame({"text": ["a\rb", "c\nd", 'e"f', "g,h", " "], "true": [True, False, True, True, False]})
    save_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(load_table(tmp_path / "t.csv", keep_default_na=False), table)


def test_who_may_read_our_text_may_read_our_tensors(tmp_path):
    """safetensors makes files that nobody but their owner may read, so a baked model could not be served by another."""
    text = save_text(tmp_path / "a.txt", "a")
    path = save_tensors(tmp_path / "x.safetensors", "thing", 1, {"x": torch.ones(1)}, {})
    model = tiny.model().save(tmp_path / "model")
    assert {item.stat().st_mode for item in (path, *model.iterdir())} == {text.stat().st_mode}
