"""More tokens for a finished recording: the same as one pass over all of them, wherever the process is stopped."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.artifacts.examples import context
from neuroglot.recording.recorder import record as whole_pass
from neuroglot.recording.shard_store import ShardStore, merge

SHARD = 120  # tokens of text in a shard of 8 blocks of 16, each with BOS


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def record(model):
    def call(directory, tokens, corpus=None, **changes):
        settings = {"block": 16, "shard_tokens": 128, "progress": False, **changes}
        return whole_pass(model, corpus or tiny.corpus(40), directory=directory, tokens=tokens, **settings)

    return call


def data(directory):
    return (directory / "recording.safetensors").read_bytes()


@pytest.mark.parametrize("steps", [(2 * SHARD, 5 * SHARD), (SHARD, 3 * SHARD, 400)])
def test_from_where_a_shard_ended_it_is_one_pass_to_the_byte(tmp_path, record, steps):
    for tokens in steps:
        record(tmp_path / "steps", tokens)
    record(tmp_path / "once", steps[-1])
    assert data(tmp_path / "steps") == data(tmp_path / "once")
    assert not (tmp_path / "steps" / "earlier").exists()


@pytest.mark.parametrize("steps", [(16, 400), (100, 130, 131, 10**6)])
def test_from_anywhere_it_counts_the_same_tokens(tmp_path, record, steps):
    """A shard that was cut short is completed by another; all after it are those of one pass."""
    for tokens in steps:
        record(tmp_path / "steps", tokens, examples=2)
    got = ng.Recording.load(tmp_path / "steps" / "recording.safetensors")
    once = record(tmp_path / "once", steps[-1], examples=2)
    assert torch.equal(got.tokens, once.tokens) and torch.equal(got.active, once.active)
    for name in once.sums:
        torch.testing.assert_close(got.sum(name).double(), once.sum(name).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.examples.values, once.examples.values)
    for mine, theirs in zip(got.examples.of(1, 2, 3), once.examples.of(1, 2, 3), strict=True):
        around = context(tmp_path / "steps", mine, got.examples.text)
        assert around == context(tmp_path / "once", theirs, once.examples.text)


def test_a_language_that_ended_stays_and_the_model_reads_nothing_twice(tmp_path, record, monkeypatch):
    few = {"en": list(tiny.corpus(40)["en"]), "fr": list(tiny.corpus(5)["fr"])}
    record(tmp_path, 2 * SHARD, corpus=ng.Corpus(few))
    read = []
    put = ShardStore.put
    monkeypatch.setattr(ShardStore, "put", lambda store, name, made: (read.append(name), put(store, name, made)))
    record(tmp_path, 4 * SHARD, corpus=ng.Corpus(few))
    assert [name.rsplit("-", 1)[0] for name in read] == ["en-00002", "en-00003"]
    record(tmp_path, 4 * SHARD, corpus=ng.Corpus(few))
    assert len(read) == 2


def test_what_cannot_be_extended_is_refused_and_left_alone(tmp_path, record):
    record(tmp_path / "done", 2 * SHARD)
    before = data(tmp_path / "done")
    with pytest.raises(ng.NeuroglotError, match=r"tokens \(was 240, now 120\)"):
        record(tmp_path / "done", SHARD)
    with pytest.raises(ng.NeuroglotError, match=r"batch_tokens \(was 1024, now 64\)"):
        record(tmp_path / "done", 3 * SHARD, batch_tokens=64)
    assert data(tmp_path / "done") == before
    record(tmp_path / "part", SHARD, part=(1, 2))
    with pytest.raises(ng.NeuroglotError, match="was begun with 120 tokens and is not finished; finish it"):
        record(tmp_path / "part", 2 * SHARD)
    with pytest.raises(ng.NeuroglotError, match=r"tokens \(was 240, now 120\)"):
        merge([tmp_path / "part"], tmp_path / "done")


@pytest.mark.parametrize("change", ["another letter", "more of what had ended", "less"])
def test_text_that_changed_is_noticed_and_nothing_of_it_is_recorded(tmp_path, record, change):
    texts = {tag: list(tiny.corpus(40)[tag]) for tag in ("en", "fr")}
    texts["fr"] = texts["fr"][:3]
    record(tmp_path / "d", 2 * SHARD, corpus=ng.Corpus(texts))
    record(tmp_path / "once", 4 * SHARD, corpus=ng.Corpus(texts))
    other = {tag: list(some) for tag, some in texts.items()}
    if change == "another letter":
        other["en"][1] = other["en"][1].replace("cats", "bats") + "!"
    elif change == "less":
        other["en"] = other["en"][:1]
    else:
        other["fr"].append("de plus")
    with pytest.raises(ng.NeuroglotError, match="the text in (en|fr) is not what was recorded"):
        record(tmp_path / "d", 4 * SHARD, corpus=ng.Corpus(other))
    record(tmp_path / "d", 4 * SHARD, corpus=ng.Corpus(texts))  # with the right text it goes on
    assert data(tmp_path / "d") == data(tmp_path / "once")


def test_in_parts(tmp_path, record):
    record(tmp_path / "parts", 2 * SHARD)
    for i in (2, 1):
        record(tmp_path / "parts", 5 * SHARD, part=(i, 2))
    assert not (tmp_path / "parts" / "recording.safetensors").exists()
    merge([tmp_path / "parts"], tmp_path / "parts")
    record(tmp_path / "once", 5 * SHARD)
    assert data(tmp_path / "parts") == data(tmp_path / "once")


class Stopped(BaseException):
    """As a kill, but for what `finally` does."""


def stop_before(monkeypatch, number):
    """Have the process stop at the `number`-th file that it renames or removes."""
    calls = iter(range(number))

    def deadly(function):
        def call(*arguments, **named):
            if next(calls, None) is None and not stopped:
                stopped.append(True)
                raise Stopped
            return function(*arguments, **named)

        return call

    stopped = []
    for owner, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree"), (shutil, "copyfile")):
        monkeypatch.setattr(owner, name, deadly(getattr(owner, name)))
    return stopped


def test_stopped_before_any_file_it_goes_on_with_either_number(tmp_path, record, monkeypatch):
    record(tmp_path / "less", 2 * SHARD)
    record(tmp_path / "more", 3 * SHARD)
    less, more = data(tmp_path / "less"), data(tmp_path / "more")
    seen = set()
    for number in itertools.count(step=3):
        here = shutil.copytree(tmp_path / "less", tmp_path / f"{number}")
        with monkeypatch.context() as patched:
            stopped = stop_before(patched, number)
            with contextlib.suppress(Stopped):
                record(here, 3 * SHARD)
        try:
            record(here, 2 * SHARD)
            assert data(here) == less
            seen.add("back")
        except ng.NeuroglotError as error:
            seen.add(str(error).partition(": ")[2].partition(";")[0])
        record(here, 3 * SHARD)
        assert data(here) == more and not (here / "earlier").exists()
        if not stopped:
            break
    assert seen == {"back", "tokens (was 360, now 240)"} and number > 10
