"""What is said of a path at which no file is."""

import os

import numpy as np
import pytest
import tiny
import torch
from shapes import unchecked

import neuroglot as ng
from neuroglot.storage.given import check_file, integer, real, takes_numbers


def test_what_is_there_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    check_file(file, "give a file")
    (tmp_path / "link").symlink_to(file)
    check_file(tmp_path / "link", "give a file")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    places = {
        tmp_path: "is a directory",
        tmp_path / "nothing": "does not exist",
        tmp_path / "broken": "is a link to nothing",
        tmp_path / "pipe": "is no ordinary file",
        tmp_path / ("x" * 300): "does not exist",
        file / "below": "does not exist",
    }
    for path, wrong in places.items():
        with pytest.raises(ng.NeuroglotError, match=f"{wrong}; give a file.$"):
            check_file(path, "give a file")


@unchecked()
def test_numbers_of_every_kind_are_taken_and_what_is_none_is_said():
    for four in (4, 4.0, np.int64(4), np.float32(4), torch.tensor(4), torch.tensor(4.0)):
        assert integer(four, "clusters") == 4 and type(integer(four, "clusters")) is int
        assert real(four, "share") == 4.0
    for wrong in (4.5, "4", True, np.True_, None, [4], float("nan"), float("inf"), torch.ones(2)):
        with pytest.raises(ng.NeuroglotError, match="^clusters must be a whole number, not"):
            integer(wrong, "clusters")
    for wrong in ("0.5", True, None, [0.5], float("nan"), np.ones(2)):
        with pytest.raises(ng.NeuroglotError, match="^share must be a number, not"):
            real(wrong, "share")
    with pytest.raises(ng.NeuroglotError, match="at least 1, not 0"):
        integer(0, "clusters", least=1)

    @takes_numbers
    def called(tokens: int, share: float = 0.5, *, seed: int | None = None, top: float | int = 1, keep: bool | int = 2):
        return tokens, share, seed, top, keep

    assert called(8 / 2, np.float32(0.25), seed=-1.0, top=2.0, keep=True) == (4, 0.25, -1, 2.0, True)
    assert type(called(np.int64(3))[0]) is int and called(1, seed=None)[2] is None
    with pytest.raises(ng.NeuroglotError, match="tokens must be a whole number of at least 0, not -1"):
        called(-1)


@unchecked()
def test_settings_that_a_script_computed_are_taken(model):
    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ng.experts.balanced_kmeans(rows, 24 / 6, np.int64(1)), ng.experts.balanced_kmeans(rows, 4, 1))
    corpus, pairs = tiny.corpus(), ng.Corpus({"en": ["a b"], "fr": ["c d"]}, parallel=True)
    held_out = ng.evaluate.perplexity(model, corpus, tokens=64, block=16, progress=False)
    assert ng.evaluate.perplexity(model, corpus, tokens=64.0, block=np.int32(16), progress=False) == held_out
    assert ng.experts.partition(model, 6.0, kind="contiguous").experts == 6
    for wrong, said in {
        (lambda: ng.experts.balanced_kmeans(rows, "4")): "clusters must be a whole number",
        (lambda: ng.evaluate.token_losses(model, corpus, tokens=-1)): "tokens must be a whole number of at least 0",
        (lambda: ng.evaluate.generate(model, ["a"], tokens=2.5)): "tokens must be a whole number",
        (lambda: ng.record_samples(model, pairs, max_tokens=0)): "max_tokens must be at least 1",
        (lambda: corpus.half(0.5)): "which must be a whole number",
        (lambda: corpus.half(2)): "A half is 0 or 1",
    }.items():
        with pytest.raises(ng.NeuroglotError, match=said):
            wrong()
    scale = ng.Scale(torch.ones(3, 24, dtype=torch.bool), "2")
    with pytest.raises(ng.NeuroglotError, match="The values are a tensor"), ng.intervene(model, scale):
        pass
