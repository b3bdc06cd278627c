"""Digests of all of a file, files of earlier versions, tables, drafts of the killed, and finished results."""

import hashlib
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import neuroglot as ng
from neuroglot.errors import NeuroglotWarning
from neuroglot.storage import sealed
from neuroglot.storage.atomic import DRAFT, read_json, save_text
from neuroglot.storage.made import is_made, sign
from neuroglot.storage.results import load_json, save_json
from neuroglot.storage.sealed import BLANK, sealed_json, unsealed_json
from neuroglot.storage.tables import load_table, save_table
from neuroglot.storage.tensors import load_tensors, save_tensors

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.text().filter(lambda key: key != sealed.SEAL)


@given(st.dictionaries(keys, json_values, max_size=4))
def test_what_is_sealed_is_what_was_said(value):
    text = sealed_json(value)
    assert unsealed_json(text.encode()) == (value, True)
    assert json.loads(text)[sealed.SEAL] != BLANK


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place(tmp_path):
    path = save_tensors(
        tmp_path / "x.safetensors", "thing", 1, {"x": torch.arange(5)}, {"of": f'"digest": "{BLANK}"}}'}
    )
    data = path.read_bytes()
    header = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["neuroglot"])
    assert hashlib.sha256(data.replace(header["digest"].encode(), BLANK.encode())).hexdigest() == header["digest"]
    assert load_tensors(path, "thing", 1)[1]["of"].startswith('"digest"')


def test_files_of_earlier_versions_are_read_and_that_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "_noted", set())
    tensors = {"x": torch.arange(5)}
    checksum = hashlib.sha256(b"x" + tensors["x"].numpy().tobytes()).hexdigest()
    path = tmp_path / "old.safetensors"

    def old(**changes):
        header = {"kind": "thing", "version": 1, "sha256": checksum, "about": {"a": 1}} | changes
        save_file(tensors, path, metadata={"neuroglot": json.dumps(header)})

    old()
    with pytest.warns(NeuroglotWarning, match="earlier Neuroglot"):
        assert load_tensors(path, "thing", 1)[1] == {"a": 1}
    load_tensors(path, "thing", 1)  # a second warning would be an error
    for wrong in ({"sha256": checksum[::-1]}, {"sha256": None}, {"version": 2}, {"version": "x"}, {"about": 4}):
        old(**wrong)
        with pytest.raises(ng.NeuroglotError):
            load_tensors(path, "thing", 1)
    (tmp_path / "old.json").write_text('{"intact": 1}')
    with pytest.warns(NeuroglotWarning, match="earlier Neuroglot"):
        assert load_json(tmp_path / "old.json") == {"intact": 1}
    assert read_json(tmp_path / "old.json") == {"intact": 1}


def test_a_table_is_the_old_or_the_new_one_at_every_instant(tmp_path, monkeypatch):
    one, two = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})
    path = save_table(tmp_path / "t.csv", one)
    assert path.read_text() == "a\n1\n"
    from neuroglot.storage import tables

    def stopped(where, text):
        if where == path:
            raise KeyboardInterrupt
        return save_text(where, text)

    monkeypatch.setattr(tables, "save_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_table(path, two)
    monkeypatch.undo()
    assert load_table(path).a.tolist() == [1]
    save_table(path, two)
    assert load_table(path).a.tolist() == [2]
    path.write_text("a\n1\n")  # an earlier table of this name is not what was written last
    save_table(path, two)
    path.write_text("a\n3\n")
    with pytest.raises(ng.NeuroglotError, match=r"t.csv is missing or damaged \(its checksum .*\); measure"):
        load_table(path, "measure again")


@pytest.mark.parametrize("content", ["", "\n", '"', "a,b\n1,2\n1,2,3,4\n", "\0"])
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, monkeypatch, content):
    monkeypatch.setattr(sealed, "_noted", {".csv"})
    (tmp_path / "t.csv").write_text(content)
    if content in ("", "\n", '"', "a,b\n1,2\n1,2,3,4\n"):
        with pytest.raises(ng.NeuroglotError, match=r"^[^\n]+$"):
            load_table(tmp_path / "t.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(ng.NeuroglotError, match="Is a directory"):
        load_table(tmp_path / "d.csv")


def test_drafts_of_processes_that_ended_go_and_those_of_others_stay(tmp_path):
    program = (
        "import os, sys; from neuroglot.storage.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as draft: draft.mkdir(); (draft / 'x').write_text('1'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "killed"], env={**os.environ}, check=False)
    (left,) = tmp_path.glob(f".*{DRAFT}")
    other = tmp_path / f".other.ffffff-{os.getpid()}-00000000{DRAFT}"  # of another machine, and young
    living = tmp_path / left.name.replace(left.name.split("-")[1], str(os.getpid()))
    unknown = tmp_path / f".somebody{DRAFT}"
    for path in (other, living, unknown):
        path.write_text("")
    ancient = tmp_path / f".old.00000000{DRAFT}"  # as earlier versions named them
    ancient.write_text("")
    os.utime(ancient, (0, 0))
    save_text(tmp_path / "a", "x")
    assert {path.name for path in tmp_path.glob(f".*{DRAFT}")} == {other.name, living.name, unknown.name}


def test_a_finished_result_is_known_by_what_it_was_made_from(tmp_path):
    path = tmp_path / "made"
    assert not is_made(path, "abc", "baked model")
    path.mkdir()
    with pytest.raises(ng.NeuroglotError, match="exists; choose a new directory for the baked model"):
        is_made(path, "abc", "baked model")
    sign(path, "abc")
    assert is_made(path, "abc", "baked model")
    with pytest.raises(ng.NeuroglotError, match="exists"):
        is_made(path, "abd", "baked model")


def test_what_is_baked_and_pruned_twice_is_there_the_second_time(tmp_path, model):
    keep = torch.ones(model.layers, model.neurons, dtype=torch.bool)
    keep[:, ::2] = False
    for make in (lambda to: ng.prune(model, keep, to), lambda to: ng.bake(model, ng.Deactivate(~keep), to)):
        path = tmp_path / f"m{len(list(tmp_path.iterdir()))}"
        make(path)
        before = (path / "model.safetensors").stat().st_mtime_ns
        assert make(path) == path and (path / "model.safetensors").stat().st_mtime_ns == before
        ng.load_model(path)
        with pytest.raises(ng.NeuroglotError, match="exists"):
            ng.prune(model, ~keep, path)


def test_a_damaged_matrix_is_measured_again(tmp_path, model, recording, neurons):
    import tiny

    def measure():
        return ng.evaluate.perturb(
            model, tiny.corpus(), neurons, tokens=30, block=16, seeds=1, resume=tmp_path / "p.json", progress=False
        )

    right = measure()
    text = (tmp_path / "p.json").read_text()
    for bad in (text.replace("1", "2", 1), "", text[:50], "[]"):
        (tmp_path / "p.json").write_text(bad)
        with pytest.warns(NeuroglotWarning, match="damaged"):
            assert measure() == right
        assert (tmp_path / "p.json").read_text() == text


def test_save_json_is_read_by_anything(tmp_path):
    assert json.loads(save_json(tmp_path / "x.json", {"b": 1, "a": "é"}).read_text(encoding="utf-8"))["a"] == "é"
