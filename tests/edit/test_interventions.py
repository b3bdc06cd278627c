"""Each intervention against the FFN written by hand, on every family, and what blocks of several of them mean."""

import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.models.architecture.hooks import observe_ffn

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


def chosen(model: ng.Model, seed: int = 2) -> torch.Tensor:
    return torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(seed)) < 0.3


def values(model: ng.Model, seed: int = 3) -> torch.Tensor:
    return torch.randn(model.layers, model.neurons, generator=torch.Generator().manual_seed(seed))


CHANGES = {
    "deactivate": (lambda n, v, s: ng.Deactivate(n, site=s), lambda x, v: torch.zeros_like(x)),
    "replace": (lambda n, v, s: ng.Replace(n, v, site=s), lambda x, v: v.expand_as(x)),
    "raise": (lambda n, v, s: ng.Raise(n, v, site=s), lambda x, v: torch.maximum(x, v.expand_as(x))),
    "add": (lambda n, v, s: ng.Add(n, v, strength=1.5, site=s), lambda x, v: x + 1.5 * v),
    "scale": (lambda n, v, s: ng.Scale(n, v, site=s), lambda x, v: x * v),
}


@pytest.mark.parametrize("site", ["activation", "hidden"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_the_ffn_by_hand(family, change, site):
    """In the first layer, whose input no intervention has touched."""
    model, spec = tiny.model(family), tiny.FAMILIES[family]
    make, by_hand = CHANGES[change]
    mask, given = chosen(model), values(model)
    mask[1:] = False
    seen: list = []

    def outputs(*interventions):
        seen.clear()
        with (
            torch.no_grad(),
            ng.intervene(model, *interventions),
            observe_ffn(model.ffns, lambda i, a, h: seen.append((a.clone(), h.clone()))),
        ):
            return model.network(TOKENS).logits, *(t.flatten(0, -2) for t in seen[0])

    _, activation, hidden = outputs()
    _, new_activation, new_hidden = outputs(make(mask, given, site))
    row, v = mask[0], given[0][mask[0]]
    expected = activation.clone()
    if site == "activation" or not model.ffns[0].gated:
        expected[:, row] = by_hand(activation[:, row], v)
        torch.testing.assert_close(new_activation, expected)
        if model.ffns[0].gated:  # the product with the up-projection follows
            up = hidden / activation
            sound = activation.abs() > 1e-3
            torch.testing.assert_close(new_hidden[sound], (expected * up)[sound], rtol=1e-3, atol=1e-4)
        else:
            torch.testing.assert_close(new_hidden, expected)
    else:
        expected = hidden.clone()
        expected[:, row] = by_hand(hidden[:, row], v)
        torch.testing.assert_close(new_hidden, expected)
        torch.testing.assert_close(new_activation, activation)
    assert spec.neurons == model.neurons


def logits(model, *interventions):
    with torch.no_grad(), ng.intervene(model, *interventions):
        return model.network(TOKENS).logits


def test_they_apply_in_their_order():
    model = tiny.model()
    mask = chosen(model)
    up, down = ng.Raise(mask, 2.0), ng.Deactivate(mask)
    assert torch.equal(logits(model, up, down), logits(model, down))
    assert torch.equal(logits(model, down, up), logits(model, ng.Replace(mask, 2.0)))
    with ng.intervene(model, down):  # nested blocks: the inner one last
        assert torch.equal(logits(model, up), logits(model, down, up))


def test_neutral_ones_change_nothing():
    model = tiny.model()
    mask, intact = chosen(model), logits(model)
    for neutral in (ng.Scale(mask, 1.0), ng.Add(mask, values(model), strength=0.0), ng.Raise(mask, -1e9)):
        torch.testing.assert_close(logits(model, neutral), intact)
    torch.testing.assert_close(logits(model, ng.Scale(mask, 0.0)), logits(model, ng.Deactivate(mask)))


def test_values_from_a_recording():
    model = tiny.model()
    recording = ng.record(model, tiny.corpus(), block=16, progress=False)
    mean = recording.language_mean("fr")
    torch.testing.assert_close(mean, recording.sum("activation")[..., 1] / recording.tokens[1])
    assert not torch.equal(logits(model, ng.Replace(chosen(model), mean)), logits(model))


@pytest.mark.parametrize("change", CHANGES)
def test_generation_with_a_cache_equals_without(change):
    model = tiny.model()
    intervention = CHANGES[change][0](chosen(model), values(model), "activation")
    run = lambda cache: model.network.generate(TOKENS, max_new_tokens=8, do_sample=False, use_cache=cache)  # noqa: E731
    with ng.intervene(model, intervention):
        assert torch.equal(run(True), run(False))


@shapes.unchecked()
def test_refusals():
    model = tiny.model()
    with (
        pytest.raises(ng.NeuroglotError, match="one number or 3 × 24"),
        ng.intervene(model, ng.Raise(chosen(model), torch.zeros(3, 25))),
    ):
        pass
    for value, strength, sentence in (
        (float("nan"), 1.0, "not numbers"),
        (values(model), 1e39, "float32 cannot hold"),
        (1e39, 1.0, "float32 cannot hold"),
        ([1.0, 2.0], 1.0, "not a list"),
        (None, 1.0, "not a NoneType"),
        (1.0, "4", "strength must be a number, not .4."),
    ):
        with (
            shapes.unchecked(),
            pytest.raises(ng.NeuroglotError, match=sentence),
            ng.intervene(model, ng.Raise(chosen(model), value, strength)),
        ):
            pass
