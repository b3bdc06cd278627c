"""Caches that are not hashed each time: any flipped bit is seen, and what is damaged is made again."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.corpus import columns
from neuroglot.storage.sums import is_whole, keep_sums


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_flipped_bit_and_any_other_length_is_seen(tmp_path_factory, data, drawn):
    path = tmp_path_factory.mktemp("sums") / "file"
    path.write_bytes(data)
    keep_sums(path, path)
    assert is_whole(path)
    bit = drawn.draw(st.integers(0, 8 * len(data) - 1))
    for bad in (
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :],
        data[:-1],
        data + b"\0",
    ):
        path.write_bytes(bad)
        assert not is_whole(path)


def test_of_a_directory_every_file_counts(tmp_path):
    folder = tmp_path / "model"
    assert not is_whole(folder)
    (folder / "inside").mkdir(parents=True)
    np.arange(5000).tofile(folder / "weights")
    (folder / "inside" / "config.json").write_text("{}")
    assert is_whole(folder)  # as an earlier version left it: taken as it is
    assert is_whole(folder)
    (folder / "inside" / "config.json").write_text("[]")
    assert not is_whole(folder)
    (folder / "inside" / "config.json").write_text("{}")
    assert is_whole(folder)
    (folder / "more").touch()
    assert not is_whole(folder)


def test_a_corpus_whose_cells_were_damaged_in_the_cache_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "cache_directory", lambda: tmp_path / "cache")
    with (tmp_path / "corpus.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows([["en", "fr"], *([f"the cat {i}", f"le chat {i}"] for i in range(50))])
    right = list(ng.load_corpus(tmp_path / "corpus.csv")["fr"])
    (cells,) = (tmp_path / "cache" / "text").glob("*.arrow")
    good = cells.read_bytes()
    for at in (good.index(b"le chat 7"), 10, len(good) - 3):
        cells.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert list(ng.load_corpus(tmp_path / "corpus.csv")["fr"]) == right
        assert cells.read_bytes() == good


def test_a_converted_model_that_was_damaged_is_converted_again(tmp_path, monkeypatch):
    gguf_files = pytest.importorskip("gguf_files")
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    gguf_files.write(path, "llama", gguf_files.network("llama"))
    right = ng.load_model(path).fingerprint
    (weights,) = (tmp_path / "cache" / "models").rglob("model.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-9] + bytes([good[-9] ^ 64]) + good[-8:])
    assert ng.load_model(path).fingerprint == right
    assert weights.read_bytes() == good
