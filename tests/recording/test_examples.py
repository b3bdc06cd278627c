"""Top examples against brute force, their law of merging, and the words they are found in."""

import shutil

import pytest
import shapes
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.examples import LOW, Examples, context
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.recording.forecast import forecast
from neuroglot.recording.shard_store import merge
from neuroglot.recording.statistics.examples import TopExamples, examples_of_shard
from neuroglot.tokens.packing import pack

SETTINGS = {"block": 16, "batch_tokens": 16, "progress": False, "examples": 3}


def highest(values, k):
    """(value, token) of the k highest above zero; of equals the earlier."""
    order = sorted((-value, token) for token, value in enumerate(values) if value > 0)
    return [(-value, token) for value, token in order[:k]]


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("bos", [True, False])
def test_equal_brute_force(tmp_path, family, bos):
    model, corpus = tiny.model(family, bos=bos), tiny.corpus()
    recording = ng.record(model, corpus, directory=tmp_path, **SETTINGS)
    first, before = 1, int(bos)  # without BOS, the first token of a block is not counted either
    for k, tag in enumerate(corpus.languages):
        blocks = pack(model, corpus[tag], tag, block=16, tokens=10**6)
        seen = []
        for row in blocks:
            got = []
            with observe_ffn(model.ffns, lambda i, a, h, got=got: got.append(a.view(16, -1)[first:])), torch.no_grad():
                model.hidden_states(row[None])
            seen.append(torch.stack(got))
        values = torch.cat(seen, 1)  # (L, tokens, N)
        text = blocks[:, before:].flatten()
        for layer, neuron in [(0, 0), (1, 7), (2, 23)]:
            found = recording.examples.of(k, layer, neuron)
            places = [i for i in range(len(text)) if bos or i % 16]  # of the tokens that count, in the shard's file
            expected = highest(values[layer, :, neuron].tolist(), 3)
            assert [(e.value, e.token) for e in found] == [(value, places[token]) for value, token in expected]
            for example in found:
                around = context(tmp_path, example, recording.examples.text, before=4, after=2)
                begin = example.token // (16 - before) * (16 - before)
                low = max(begin, example.token - 4)
                whole = [*around.before, around.token, *around.after]
                assert whole == text[low : low + len(whole)].tolist()
                assert len(around.before) == min(4, example.token - begin)
                assert example.token + len(around.after) < begin + 16 - before


def test_examples_leave_the_statistics_alone(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    with_them = ng.record(model, corpus, **SETTINGS)
    without = ng.record(model, corpus, **{**SETTINGS, "examples": 0})
    assert without.examples is None
    for name in without.sums:
        assert torch.equal(with_them.sum(name), without.sum(name))


def one(values, shard, k=3):
    """What is kept of one shard whose neurons have these values (tokens, neurons)."""
    with shapes.unchecked():
        keeper = TopExamples([None], k)  # it only counts its layers
    for piece in torch.tensor(values, dtype=torch.float32).split(2):
        keeper.add(0, piece[None], piece[None])
    return examples_of_shard(keeper.flush()["examples"], shard, 4, 4)


@given(
    st.lists(
        st.lists(st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])] * 2), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
def test_any_order_of_merging_is_the_whole(shards, order):
    names = [f"en-{i:05d}" for i in range(len(shards))]
    parts = [one(values, name) for values, name in zip(shards, names, strict=True)]
    order.shuffle(parts)
    while len(parts) > 1:
        parts.append(parts.pop(0).merge(parts.pop(order.randrange(len(parts)))))
    everything = [(value, name, token) for name, values in zip(names, shards, strict=True)
                  for token, value in enumerate(values)]  # fmt: skip
    for neuron in range(2):
        ranked = sorted((-v[neuron], name, token) for v, name, token in everything if v[neuron] > 0)[:3]
        assert [(-e.value, e.shard, e.token) for e in parts[0].of(0, 0, neuron)] == ranked


def test_parts_resume_and_merge_give_the_same_bytes(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    how = {**SETTINGS, "shard_tokens": 160}
    whole = ng.record(model, corpus, directory=tmp_path / "whole", **how)
    for i in (2, 1):
        ng.record(model, corpus, directory=tmp_path / f"part-{i}", part=(i, 2), **how)
    merge([tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "merged")
    shutil.copytree(tmp_path / "part-1", tmp_path / "resumed")
    ng.record(model, corpus, directory=tmp_path / "resumed", **how)
    expected = (tmp_path / "whole" / "recording.safetensors").read_bytes()
    for name in ("merged", "resumed"):
        assert (tmp_path / name / "recording.safetensors").read_bytes() == expected
        for example in whole.examples.of(1, 2, 3):
            around = context(tmp_path / "whole", example, whole.examples.text)
            assert around is not None and context(tmp_path / name, example, whole.examples.text) == around
    loaded = ng.Recording.load(tmp_path / "whole" / "recording.safetensors")
    assert torch.equal(loaded.examples.places, whole.examples.places)
    assert loaded.select(["ru", "en"]).examples.of(1, 0, 5) == whole.examples.of(0, 0, 5)
    with pytest.raises(ng.NeuroglotError, match="examples"):
        ng.record(model, corpus, directory=tmp_path / "whole", **{**how, "examples": 2})


def test_the_formula_of_their_cost(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    ng.record(model, corpus, directory=tmp_path, **SETTINGS)
    made = ng.Recording.load(tmp_path / "recording.safetensors")
    held = [made.tokens, *made.sums.values(), made.examples.values, made.examples.places]
    said = forecast(model, corpus, block=16, examples=3)
    assert said.footprint.recording == sum(each.numel() * each.itemsize for each in held)
    text = sum(path.stat().st_size for path in (tmp_path / "text").glob("*.i32"))
    assert text == said.footprint.tokens_on_disk == 4 * int(made.tokens.sum())


def test_a_neuron_never_active_has_none():
    kept = one([[-1.0, 0.0], [-2.0, 0.0]], "en-0")
    assert kept.of(0, 0, 0) == kept.of(0, 0, 1) == []
    assert bool((kept.places == -1).all()) and not bool(kept.values.any())


def test_ties_go_to_the_earlier_token_also_across_batches():
    kept = one([[1.0, 1.0]] * 9, "en-0")
    assert [e.token for e in kept.of(0, 0, 1)] == [0, 1, 2]
    assert isinstance(kept, Examples) and LOW == 2**32 - 1


def test_text_that_changed_is_noticed_and_text_that_is_gone_is_none(tmp_path):
    recording = ng.record(tiny.model(), tiny.corpus(), directory=tmp_path, **SETTINGS)
    example = recording.examples.of(0, 0, 0)[0]
    path = tmp_path / "text" / f"{example.shard}.i32"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        context(tmp_path, example, recording.examples.text)
    path.unlink()
    assert context(tmp_path, example._replace(shard="en-none"), recording.examples.text) is None
