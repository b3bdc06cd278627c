"""Recipes: what they say, keep, apply, refuse; and what of them can be baked into weights."""

import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.positions import prompt_length
from neuroglot.edit.steering_methods import METHODS

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model, *interventions):
    with torch.no_grad(), ng.intervene(model, *interventions):
        return model.network(TOKENS).logits


def under(recipe, model):
    with torch.no_grad(), recipe.applied(model):
        return model.network(TOKENS).logits


@pytest.mark.parametrize("site", ["activation", "hidden"])
def test_each_method_is_its_intervention(model, recording, neurons, site):
    mean, difference = recording.language_mean("fr", site), recording.language_difference("fr", site)
    own, off = neurons["fr"], neurons["en"] & ~neurons["fr"]
    assert own.any() and off.any() and (neurons["en"] & own).any()  # what both have stays the target's
    by_hand = {
        "raise": ng.Raise(own, 2 * mean, site=site),
        "replace": ng.Replace(own, 2 * mean, site=site),
        "add": ng.Add(own, 2 * mean, site=site),
        "difference": ng.Add(own, 2 * difference, site=site),
        "scale": ng.Scale(own, 2.0, site=site),
    }
    assert set(by_hand) == set(METHODS)
    for method, step in by_hand.items():
        recipe = ng.steer(recording, neurons, "fr", source="en", method=method, site=site, strength=2.0)
        torch.testing.assert_close(under(recipe, model), logits(model, ng.Deactivate(off), step))
        alone = ng.steer(recording, neurons, "fr", method=method, site=site, strength=2.0)
        torch.testing.assert_close(under(alone, model), logits(model, step))
    silent = ng.steer(recording, neurons, None, source="en")
    torch.testing.assert_close(under(silent, model), logits(model, ng.Deactivate(neurons["en"])))


def test_layers_are_those_named(model, recording, neurons):
    recipe = ng.steer(recording, neurons, "fr", source="en", layers=[2])
    assert all(not step.neurons[:2].any() for step in recipe.steps) and recipe.steps[-1].neurons[2].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", ["both", "generated"])
def test_a_file_says_the_same(tmp_path, model, recording, neurons, method, when):
    recipe = ng.steer(recording, neurons, "ru", source="en", method=method, site="hidden", strength=1.7, when=when)
    recipe.save(tmp_path / "r.safetensors")
    loaded = ng.Recipe.load(tmp_path / "r.safetensors")
    assert loaded.about == recipe.about and loaded.fingerprint == recipe.fingerprint
    with prompt_length(model, 4):
        assert torch.equal(under(loaded, model), under(recipe, model))
        assert not torch.equal(under(loaded, model), logits(model))


def test_refused_on_another_model(recording, neurons):
    recipe = ng.steer(recording, neurons, "fr")
    with pytest.raises(ng.NeuroglotError, match="other weights"), recipe.applied(tiny.model(seed=1)):
        pass


def test_refusals(recording, neurons):
    refuse = lambda match: pytest.raises(ng.NeuroglotError, match=match)  # noqa: E731
    with refuse("have no zh"):
        ng.steer(recording, neurons, "zh")
    with refuse("recording has no ru"):
        ng.steer(recording.select(["en", "fr"]), neurons, "ru")
    with shapes.unchecked(), refuse("The method is"):
        ng.steer(recording, neurons, "fr", method="push")
    with refuse("Name a language"):
        ng.steer(recording, neurons, None)
    with refuse("numbered from 0 to 2"):
        ng.steer(recording, neurons, "fr", layers=[3])
    with refuse("none for fr"):
        ng.steer(recording, ng.NeuronSet(torch.zeros(3, 3, 24, dtype=torch.bool), ["en", "fr", "ru"]), "fr")
    with refuse("no 'hidden'"):
        without = ng.Recording(
            recording.languages, recording.tokens, {"active": recording.active}, recording.provenance
        )
        ng.steer(without, neurons, "fr", site="hidden")
    with refuse("names no model"):
        ng.steer(ng.Recording.from_counts(recording.active, recording.tokens, recording.languages), neurons, "fr")


CONSTANT = ["opt", "xglm", "gpt2", "bloom", "phi", "gpt_neox", "falcon with bias", "llama", "granite", "smollm3"]


def mask(model, seed):
    return torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(seed)) < 0.3


@pytest.mark.parametrize("family", CONSTANT)
def test_constants_are_baked(tmp_path, family):
    """Several steps on overlapping neurons: the checkpoint, opened afresh, says what the interventions say."""
    name, _, bias = family.partition(" with ")
    model = tiny.model(name, **({bias: True} if bias else {}))
    intact, before = logits(model), model.fingerprint
    values = torch.randn(model.layers, model.neurons, generator=torch.Generator().manual_seed(5))
    steps = [
        ng.Deactivate(mask(model, 1)),
        ng.Scale(mask(model, 2), 0.5, site="hidden"),
        ng.Replace(mask(model, 3), values, 1.5, site="hidden"),
        ng.Add(mask(model, 4), values, site="hidden"),
        ng.Scale(mask(model, 6), 2.0),
    ]
    expected = logits(model, *steps)
    ng.bake(model, steps, tmp_path / "baked")
    torch.testing.assert_close(logits(ng.load_model(tmp_path / "baked")), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(model), intact)
    assert ng.Model(model.network, model.tokenizer).fingerprint == before


@pytest.mark.parametrize("family", ["gemma3_text", "mistral", "qwen2", "falcon", "phi3"])
def test_families_without_a_bias_say_so(tmp_path, family):
    model = tiny.model(family)
    with pytest.raises(ng.NeuroglotError, match="needs a bias"):
        ng.bake(model, ng.Replace(mask(model, 1), 1.0, site="hidden"), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()
    steps = ng.Scale(mask(model, 2), 0.5)
    ng.bake(model, steps, tmp_path / "baked")
    torch.testing.assert_close(logits(ng.load_model(tmp_path / "baked")), logits(model, steps), rtol=1e-4, atol=1e-4)


def test_what_no_weight_can_hold(tmp_path, model, recording, neurons):
    for step, why in (
        (ng.Raise(mask(model, 1), 1.0, site="hidden"), "depends on the input"),
        (ng.Replace(mask(model, 1), 1.0), "multiplied by the up-projection"),
        (ng.Deactivate(mask(model, 1), when="prompt"), "depends on the position"),
    ):
        with pytest.raises(ng.NeuroglotError, match=why):
            ng.bake(model, step, tmp_path / "baked")
    recipe = ng.steer(recording, neurons, "fr", source="en", site="hidden")
    recipe.bake(model, tmp_path / "steered")
    torch.testing.assert_close(logits(ng.load_model(tmp_path / "steered")), under(recipe, model), rtol=1e-4, atol=1e-4)
