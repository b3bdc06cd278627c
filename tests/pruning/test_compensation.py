"""Compensation against brute force: what it must equal, what it must not exceed, and what order must not matter."""

import json

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import neuroglot as ng
from neuroglot.artifacts.moments import Moments, Sketch
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.pruning.compensation import compensated, loss, mean_bias, refitted
from neuroglot.pruning.moments import blocks_for_moments, hidden_moments, moments_by_layer

PLAIN = {"llama", "smollm3", "granite", "phi", "opt", "xglm", "gpt2", "gpt_neox"}  # whose config knows a bias


def moments_of(hidden):
    return Moments(hidden.mean(0), hidden.T @ hidden / len(hidden), len(hidden))


@st.composite
def layers(draw):
    """A layer's down-projection, hidden units that are correlated, and a mask."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    neurons = draw(st.integers(2, 12))
    mixing = torch.randn(neurons, neurons, generator=generator)
    hidden = torch.randn(40, neurons, generator=generator) @ mixing + torch.randn(neurons, generator=generator)
    keep = torch.rand(neurons, generator=generator) < draw(st.sampled_from([0.3, 0.6, 0.9]))
    keep[0] = True
    return torch.randn(5, neurons, generator=generator), hidden, keep


def error(down, hidden, keep, columns, bias):
    return float((hidden @ down.T - hidden[:, keep] @ columns.T - bias).square().sum(1).mean())


def filled(down, keep, columns):
    whole = torch.zeros_like(down)
    whole[:, keep] = columns
    return whole


@given(layers())
def test_mean_is_the_exact_mean_and_refit_is_never_worse(layer):
    down, hidden, keep = layer
    bias = mean_bias(down, hidden.mean(0), keep)
    torch.testing.assert_close((hidden[:, keep] @ down[:, keep].T + bias).mean(0), (hidden @ down.T).mean(0),
                               rtol=1e-3, atol=1e-3)  # fmt: skip
    moments, nothing = moments_of(hidden), torch.zeros(5)
    by_mean, by_nothing = (error(down, hidden, keep, down[:, keep], b) for b in (bias, nothing))
    room = 1e-3 * by_nothing + 1e-4
    for ridge in (0.0, 1e-3, 0.1, 10.0):
        fit = refitted(down, moments, keep, ridge=ridge)
        assert error(down, hidden, keep, *fit) <= by_mean + room
        alone, none = refitted(down, moments, keep, ridge=ridge, intercept=False)
        assert not bool(none.any())
        assert error(down, hidden, keep, alone, none) <= by_nothing + room
        got = loss(down, moments, filled(down, keep, fit[0]), fit[1])
        assert got == pytest.approx(error(down, hidden, keep, *fit), rel=1e-2, abs=room)


@given(layers(), st.randoms(use_true_random=False))
def test_the_order_of_neurons_does_not_matter(layer, random):
    down, hidden, keep = layer
    order = list(range(len(keep)))
    random.shuffle(order)
    kept = [place for place in order if keep[place]]
    where = {neuron: i for i, neuron in enumerate(keep.nonzero().flatten().tolist())}
    columns, bias = refitted(down, moments_of(hidden), keep)
    again, same = refitted(down[:, order], moments_of(hidden[:, order]), keep[order])
    torch.testing.assert_close(again, columns[:, [where[place] for place in kept]], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(same, bias, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        mean_bias(down[:, order], hidden.mean(0)[order], keep[order]), mean_bias(down, hidden.mean(0), keep)
    )


def test_refit_is_least_squares_and_exact_where_it_can_be():
    generator = torch.Generator().manual_seed(0)
    hidden, down = torch.randn(200, 6, generator=generator), torch.randn(3, 6, generator=generator)
    keep = torch.tensor([True, True, False, True, False, True])
    columns, bias = refitted(down, moments_of(hidden), keep, ridge=0)
    ones = torch.ones(200, 1)
    wanted = torch.linalg.lstsq(torch.cat([hidden[:, keep], ones], 1), hidden @ down.T).solution.T
    torch.testing.assert_close(torch.cat([columns, bias[:, None]], 1), wanted, rtol=1e-3, atol=1e-4)
    hidden[:, 2] = hidden[:, 0] - 2 * hidden[:, 5] + 3  # one that the others say
    hidden[:, 4] = 1
    columns, bias = refitted(down, moments_of(hidden), keep, ridge=0)
    assert error(down, hidden, keep, columns, bias) < 1e-6
    columns, bias = refitted(down, moments_of(hidden), torch.ones(6, dtype=torch.bool))
    assert torch.equal(columns, down)
    assert not bool(bias.any())


def sketch_of(hidden, rows):
    places, signs = torch.arange(len(hidden)) % rows, torch.randint(2, (len(hidden),)) * 2.0 - 1
    sums = torch.zeros(rows, hidden.shape[1]).index_add_(0, places, hidden * signs[:, None])
    ones, root = torch.zeros(rows).index_add_(0, places, signs), len(hidden) ** 0.5
    return Sketch(hidden.mean(0), hidden.square().mean(0), sums / root, ones / root, len(hidden))


@given(layers(), st.booleans())
def test_a_sketch_of_as_many_rows_as_tokens_is_exact(layer, intercept):
    down, hidden, keep = layer
    exact, sketch = moments_of(hidden), sketch_of(hidden, len(hidden))
    torch.testing.assert_close(sketch.second, exact.second, rtol=1e-3, atol=1e-3)
    for one, other in zip(refitted(down, exact, keep, intercept=intercept, ridge=0.01),
                          refitted(down, sketch, keep, intercept=intercept, ridge=0.01), strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
    changed, bias = torch.randn_like(down), torch.randn(5)
    assert loss(down, sketch, changed, bias) == pytest.approx(loss(down, exact, changed, bias), rel=1e-3, abs=1e-3)
    few = sketch_of(hidden, 15)  # and fewer: least squares of the sketch, so never worse than nothing on it
    fit = refitted(down, few, keep, intercept=False)
    by_nothing = loss(down, few, filled(down, keep, down[:, keep]))
    assert loss(down, few, filled(down, keep, fit[0])) <= by_nothing * 1.001 + 1e-4


def test_wide_layers_are_sketched():
    """The refit of a sketch of half as many rows as tokens is nearly the exact one on the text."""
    model = tiny.model()
    blocks = blocks_for_moments(model, tiny.corpus(60)["fr"], "fr", tokens=2_000, block=32)
    exact = list(moments_by_layer(model, blocks, progress=False))
    assert not any(isinstance(each, Sketch) for each in exact)
    tokens = exact[0].tokens
    for rows, room in ((tokens, 1.01), (tokens // 2, 1.5)):
        found = list(moments_by_layer(model, blocks, large=model.neurons, rows=rows, memory=1, progress=False))
        for ffn, sketch, moments in zip(model.ffns, found, exact, strict=True):
            assert isinstance(sketch, Sketch)
            torch.testing.assert_close(sketch.mean, moments.mean)
            torch.testing.assert_close(sketch.squares, moments.squares, rtol=1e-3, atol=1e-5)
            down, keep = ffn.down_columns.detach(), torch.arange(model.neurons) % 3 > 0
            losses = [loss(down, moments, filled(down, keep, fit[0]), fit[1])
                      for fit in (refitted(down, each, keep) for each in (sketch, moments))]  # fmt: skip
            assert losses[0] <= room * losses[1] + 1e-6


def hidden_of(model, blocks):
    found = [[] for _ in model.ffns]
    with torch.no_grad(), observe_ffn(model.ffns, lambda layer, _, hidden: found[layer].append(hidden.clone())):
        model.hidden_states(blocks)
    return [torch.cat(each).reshape(*blocks.shape, -1)[:, model.uncounted :].flatten(0, 1) for each in found]


def test_moments_are_those_of_the_counted_tokens():
    model = tiny.model()
    blocks = blocks_for_moments(model, tiny.corpus()["fr"], "fr", tokens=200, block=32)
    for memory in (1 << 30, 1):  # all layers at once, and one a pass
        read = list(moments_by_layer(model, blocks, memory=memory, progress=False))
        for moments, hidden in zip(read, hidden_of(model, blocks), strict=True):
            assert moments.tokens == len(hidden)
            torch.testing.assert_close(moments.mean, hidden.mean(0), rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(moments.second, hidden.T @ hidden / len(hidden), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("how", ["mean", "refit"])
def test_every_family_writes_what_was_computed(family, how, tmp_path):
    model, text = tiny.model(family), tiny.corpus(20)
    keep = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(1)).argsort(1) < 16
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    path = ng.prune(model, keep, tmp_path / "pruned", text=text, language="fr", compensate=how)
    after = model.network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    opened = ng.load_model(path)
    blocks = blocks_for_moments(model, text["fr"], "fr", tokens=20_000)
    fitted = blocks[: len(blocks) - len(blocks) // 8] if how == "refit" else blocks
    for ffn, small, hidden, kept in zip(model.ffns, opened.ffns, hidden_of(model, fitted), keep, strict=True):
        hidden = hidden.double()
        whole, small_down = ffn.down_columns.detach().double(), small.down_columns.detach().double()
        wanted, bare = hidden @ whole.T, hidden[:, kept] @ whole[:, kept].T
        own = 0 if ffn.down.bias is None else ffn.down.bias.detach().double()
        gained = 0 if small.down.bias is None else small.down.bias.detach().double()
        got = hidden[:, kept] @ small_down.T + gained - own
        assert float((got - wanted).square().mean()) < float((bare - wanted).square().mean())
        if how == "mean" or small.down.bias is not None:
            scale = float(wanted.abs().mean())
            assert float((got - wanted).mean(0).abs().max()) < 2e-3 * max(1.0, scale)
    plain_opens = family != "bloom" and (how == "refit" or family in PLAIN)
    if plain_opens:
        plain = AutoModelForCausalLM.from_pretrained(path)
        tokens = fitted[:1].long()
        torch.testing.assert_close(plain(tokens).logits, opened.network(tokens).logits, rtol=1e-4, atol=1e-4)
    else:
        said = json.loads((path / "config.json").read_text())
        assert said["neuroglot_widths"] == [16] * 3
        with pytest.raises(RuntimeError):  # and not in silence
            AutoModelForCausalLM.from_pretrained(path)


def test_the_means_of_a_recording_are_those_of_its_text(model, recording, tmp_path):
    keep = torch.arange(model.neurons).expand(model.layers, -1) % 2 == 0
    by_text = [moments.mean for moments in hidden_moments(model, tiny.corpus()["fr"], "fr", block=16, progress=False)]
    for change, mean, ffn, mask in zip(
        compensated(model, keep, "mean", "fr", recording=recording), by_text, model.ffns, keep, strict=True
    ):
        torch.testing.assert_close(change.bias, mean_bias(ffn.down_columns, mean, mask), rtol=1e-2, atol=1e-3)
    with pytest.raises(ng.NeuroglotError, match="other weights"):
        ng.prune(tiny.model(seed=1), keep, tmp_path / "x", recording=recording, language="fr", compensate="mean")


def test_what_is_not_given_is_asked_for(model, tmp_path):
    keep = model.exists
    for how, match in [
        ({"compensate": "refit"}, "give text="),
        ({"compensate": "mean"}, "give recording= or text="),
        ({"vocabulary": True}, "give text="),
        ({"compensate": "refit", "text": tiny.corpus()}, "language="),
        ({"compensate": "refit", "text": tiny.corpus(), "language": "de"}, "no de"),
        ({"compensate": "refit", "text": ng.Corpus({"fr": ["là"]}), "language": "fr"}, "fr"),
        ({"vocabulary": 100, "text": tiny.corpus(), "language": "fr"}, "as many"),
        ({"vocabulary": True, "text": ng.Corpus({"fr": []}), "language": "fr"}, "no token"),
    ]:
        with pytest.raises(ng.NeuroglotError, match=match):
            ng.prune(model, keep, tmp_path / "x", **how)
    with pytest.raises(ng.NeuroglotError, match="no tokens"):
        Moments(torch.zeros(2), torch.zeros(2, 2), 0)
    with pytest.raises(ng.NeuroglotError, match="not numbers"):
        Moments(torch.zeros(2), torch.full((2, 2), torch.nan), 1)
    assert not list(tmp_path.iterdir())
