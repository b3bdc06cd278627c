"""A device whose memory ends: what does not fit is done in halves, nothing is lost, and the numbers are the same."""

import warnings
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
import tiny
import torch
from commands import refused
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.experts.moefy import _routers
from neuroglot.models import fitting
from neuroglot.models.fitting import fitting_tokens, halving, rows_within, when_full
from neuroglot.pruning.moments import moments_by_layer
from neuroglot.pruning.vocabulary import expected_counts
from neuroglot.tokens.packing import pack


@pytest.fixture(scope="module", autouse=True)
def _no_search_for_circles():
    """It takes longer than all the rest."""
    with patch.object(fitting.gc, "collect"):
        yield


@contextmanager
def full_above(model, tokens, times=10**9):
    """The last layer of the model finds no memory for more tokens at once; those before it have been computed."""
    seen = []

    def refuse(module, args, named=None):
        if args[0].shape[0] * args[0].shape[1] > tokens and len(seen) < times:
            seen.append(args[0].shape)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.network.model.layers[-1].register_forward_pre_hook(refuse)
    try:
        yield seen
    finally:
        hook.remove()
        fitting._fits.clear()


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60))
def test_halves_until_it_fits(size, room, least):
    size, tried = max(size, least), []

    def run(some):
        tried.append(some)
        if some > room:
            raise torch.OutOfMemoryError
        return some

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if room >= least:
            made = halving(run, size, least=least)
            assert made <= room and (made in (size, least) or made * 2 >= room)
        else:
            with pytest.raises(ng.NeuroglotError, match=f"no memory left for {least} tokens at once, the least"):
                halving(run, size, least=least)
            assert tried[-2:] == [least, least]  # what was let go of may have been enough
    assert tried == sorted(tried, reverse=True) and len(tried) < 13


def test_what_is_kept_for_speed_is_let_go_of():
    kept = [0]
    when_full(kept.clear)

    def run(size):
        if kept:
            raise torch.OutOfMemoryError
        return size

    try:
        assert halving(run, 1) == 1
    finally:
        fitting._release.remove(kept.clear)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


TEXT = {"fr": "un deux trois quatre cinq six sept huit neuf dix " * 20, "en": "one two three four five six seven " * 20}


def same(first, second):
    assert first.keys() == second.keys()
    for tag in first:
        assert first[tag] == pytest.approx(second[tag], rel=1e-6)


def test_passes_give_the_same_numbers(model):
    corpus = ng.Corpus({tag: [text] for tag, text in TEXT.items()})
    pairs = ng.Corpus({tag: text.split()[:12] for tag, text in TEXT.items()}, parallel=True)
    how = {"tokens": 512, "block": 32, "progress": False, "statistics": ("active", "hidden", "residual"), "examples": 2}

    def everything():
        recording = ng.record(model, corpus, **how)
        samples = ng.record_samples(model, pairs, statistics=("active",), progress=False)
        perplexity = ng.evaluate.perplexity(model, corpus, tokens=512, block=32)
        sampled = ng.evaluate.sample_perplexity(model, corpus, samples=8, length=30)
        return recording, samples, perplexity, sampled

    recording, samples, perplexity, sampled = everything()
    for room in (40, 130):
        with full_above(model, room) as refused, pytest.warns(ng.NeuroglotWarning, match="which another job may have"):
            again = everything()
        assert refused
        for name, values in recording.sums.items():
            torch.testing.assert_close(again[0].sums[name], values, rtol=1e-5, atol=1e-5)
        assert torch.equal(again[0].tokens, recording.tokens)
        assert torch.equal(again[0].examples.places, recording.examples.places)
        torch.testing.assert_close(again[1].vectors, samples.vectors, rtol=1e-5, atol=1e-6)
        assert torch.equal(again[1].recording.active, samples.recording.active)
        same(again[2], perplexity)
        same(again[3], sampled)


def test_shrinking_reads_text_in_halves_too(model):
    """A layer has added its part when the next finds no memory, so what was summed is summed anew."""
    blocks = pack(model, [TEXT["fr"] * 3], "fr", block=64, tokens=640)
    split = ng.experts.partition(model, 3, progress=False)
    text = ng.Corpus({tag: [words * 3] for tag, words in TEXT.items()})

    def everything():
        moments = list(moments_by_layer(model, blocks, progress=False))
        routers = fitting_tokens(model, partial(_routers, model, split, text, 2000, False), None, least=256)
        found = [torch.from_numpy(expected_counts(model, blocks)), *routers]
        return [*found, *(each.second for each in moments), *(each.mean for each in moments)]

    whole = everything()
    for room in (256, 512):
        with full_above(model, room) as refused, pytest.warns(ng.NeuroglotWarning, match="which another job may have"):
            found = everything()
        assert refused
        for one, other in zip(found, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_fits_is_found_out_once(model):
    corpus = ng.Corpus({tag: [text] for tag, text in TEXT.items()})
    with full_above(model, 70) as refused:
        with pytest.warns(ng.NeuroglotWarning):
            ng.evaluate.perplexity(model, corpus, tokens=512, block=32)
        count = len(refused)
        ng.evaluate.perplexity(model, corpus, tokens=512, block=32)
        assert len(refused) == count
    with full_above(model, 31), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ng.NeuroglotError, match="end other jobs on it, or choose another"):
            ng.evaluate.perplexity(model, corpus, tokens=512, block=32)


@pytest.mark.parametrize("engine", ["continuous", "huggingface"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_queue_goes_on_with_half_its_slots(model, engine, temperature):
    prompts = [text[:length] for text in TEXT.values() for length in (3, 40, 8, 21, 5)]
    how = {"tokens": 9, "engine": engine, "temperature": temperature, "batch": 8}
    expected = ng.evaluate.generate(model, prompts, **how)
    done = []
    with full_above(model, 90) as refused, pytest.warns(ng.NeuroglotWarning, match="rows at once.*goes on with"):
        assert ng.evaluate.generate(model, prompts, advance=lambda count, _: done.append(count), **how) == expected
    assert sum(done) == len(prompts) and refused


def test_finished_rows_are_not_written_again(model):
    prompts = [TEXT["fr"][:length] for length in (3, 4, 5, 6, 7, 8)]
    expected = ng.evaluate.generate(model, prompts, tokens=5, batch=2, engine="continuous")
    done, calls = [], []

    def refuse(module, args, named=None):
        calls.append(args[0].shape)
        if len(calls) == 9:  # in the second pair
            raise torch.OutOfMemoryError

    hook = model.network.model.layers[-1].register_forward_pre_hook(refuse)
    try:
        with pytest.warns(ng.NeuroglotWarning, match="2 rows at once.*goes on with 1"):
            made = ng.evaluate.generate(
                model, prompts, tokens=5, batch=2, engine="continuous", advance=lambda count, _: done.append(count)
            )
    finally:
        hook.remove()
    assert made == expected and done[0] == 2 and sum(done) == 6


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 200), st.booleans())
def test_rows_of_like_length_fill_a_batch_and_no_more(lengths, tokens, down):
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row] if down else lengths[row])
    some = rows_within(order, lengths, tokens)
    assert some == order[: len(some)]
    padded = lambda rows: len(rows) * max(lengths[row] for row in rows)  # noqa: E731
    assert len(some) == 1 or padded(some) <= tokens
    assert len(some) == len(order) or padded(order[: len(some) + 1]) > tokens


def test_a_device_that_is_full_elsewhere_is_a_sentence(checkpoint, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("neuroglot.run.settings.ModelSettings.load", full)
    said = refused(monkeypatch, capsys, "evaluate", "perplexity", checkpoint, "starter")
    assert said.startswith("The device has no memory left for this; end other jobs on it")
