"""Steps that act only on drift: a plain loop, the same in every engine, kept in recipes, refused where they must be."""

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.edit.drift import AddOnDrift, projections, thresholds
from neuroglot.errors import NeuroglotError
from neuroglot.generation.engine import generate
from neuroglot.models.architecture.hooks import observe_residual

PROMPTS = ["the cats sat", "a much longer prompt, so that the first one is padded", "x"]


def step(model, layers=(1,), strength=4.0, when="both", seed=0, threshold=0.0):
    draw = torch.Generator().manual_seed(seed)
    values, probe = torch.randn(2, model.layers, model.stream_width, generator=draw, dtype=torch.float64)
    mask = torch.zeros(model.layers, model.stream_width, dtype=torch.bool)
    mask[list(layers)] = True
    cut = torch.full((model.layers,), threshold, dtype=torch.float64)
    return AddOnDrift(mask, values, probe, cut, strength=strength, when=when)


def streams(model, tokens, *steps):
    """The stream after every layer."""
    kept = []
    with (
        torch.no_grad(),
        ng.intervene(model, *steps),
        observe_residual(model.ffns, lambda _, x: kept.append(x.clone())),
    ):
        model.hidden_states(tokens)
    return kept


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "olmo2", "gemma3_text"])
def test_it_adds_to_the_states_below_the_threshold_and_to_no_other(family):
    model = tiny.model(family)
    tokens = torch.randint(3, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    before = streams(model, tokens)
    middle = float((before[1].double() @ step(model).probe[1]).median()) + 1e-3
    change = step(model, threshold=middle)
    after = streams(model, tokens, change)
    torch.testing.assert_close(after[0], before[0])
    expected = before[1].clone()
    drifted = 0
    for row in range(2):
        for place in range(9):
            if float(before[1][row, place] @ change.probe[1].float()) < middle:
                expected[row, place] += 4 * change.values[1].float()
                drifted += 1
    assert 0 < drifted < 18
    torch.testing.assert_close(after[1], expected)


@pytest.mark.parametrize(
    ("family", "when"), [("llama", "both"), ("llama", "generated"), ("opt", "prompt"), ("gemma3_text", "generated")]
)
def test_engines_caches_and_rows_change_nothing(family, when):
    model = tiny.model(family)
    recipes = [ng.Recipe([step(model, when=when, seed=seed)], model.fingerprint) for seed in (0, 1)]
    rows = [recipes[0], None, recipes[1]]
    together = generate(model, PROMPTS, recipes=rows, tokens=8)
    assert together == generate(model, PROMPTS, recipes=rows, tokens=8, engine="huggingface")
    assert together == generate(model, PROMPTS, recipes=rows, tokens=8, cache=False)
    alone = [generate(model, [text], recipes=[recipe], tokens=8)[0] for text, recipe in zip(PROMPTS, rows, strict=True)]
    assert together == alone
    with recipes[0].applied(model):
        assert generate(model, PROMPTS[:1], tokens=8) == together[:1]


def test_it_follows_constants_and_what_follows_it_has_a_queue_of_its_own():
    model = tiny.model()
    drift = step(model)
    add = ng.Add(drift.neurons, drift.values, 2.0, site="residual")
    for order in ([add, drift], [drift, add]):
        recipe = ng.Recipe(order, model.fingerprint)
        made = generate(model, PROMPTS, recipes=[recipe, None, recipe], tokens=8)
        assert made == generate(model, PROMPTS, recipes=[recipe, None, recipe], tokens=8, engine="huggingface")


def test_a_recipe_keeps_it_and_says_where_it_cannot_go(tmp_path):
    model = tiny.model()
    recipe = ng.Recipe([step(model, when="generated")], model.fingerprint)
    again = ng.Recipe.load(recipe.save(tmp_path / "drift.safetensors"))
    assert again.digest == recipe.digest and again.steps[0].when == "generated"
    torch.testing.assert_close(again.steps[0].probe, recipe.steps[0].probe)
    other = ng.Recipe([step(model, when="generated", threshold=0.5)], model.fingerprint)
    assert other.digest != recipe.digest
    with pytest.raises(NeuroglotError, match="only Add can be baked"):
        recipe.bake(model, tmp_path / "baked")
    with pytest.raises(NeuroglotError, match="control vector is a constant"):
        recipe.export(tmp_path / "drift.gguf")


def test_what_is_no_drift_is_refused():
    model = tiny.model()
    good = step(model)
    with pytest.raises(NeuroglotError, match="the site is residual"):
        AddOnDrift(good.neurons, good.values, good.probe, good.threshold, site="hidden")
    with pytest.raises(NeuroglotError, match="The probe must be"):
        AddOnDrift(good.neurons, good.values, good.probe[:, :-1], good.threshold)
    with pytest.raises(NeuroglotError, match="not numbers"):
        AddOnDrift(good.neurons, good.values, good.probe, good.threshold * torch.nan)
    with pytest.raises(NeuroglotError, match="needs text"):
        thresholds([], 0.1)
    with pytest.raises(NeuroglotError, match="false alarms"):
        thresholds([torch.zeros(3, 2, dtype=torch.float64)], 1.0)


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=30), min_size=1, max_size=3), st.floats(0, 0.99))
def test_no_language_has_more_false_alarms_than_asked_for(texts, share):
    found = [torch.tensor(text, dtype=torch.float64)[:, None] for text in texts]
    cut = thresholds(found, share)
    assert all(float((each < cut).double().mean()) <= share for each in found)


def test_projections_are_those_of_each_state():
    model = tiny.model()
    tokens = torch.randint(3, 200, (3, 8), generator=torch.Generator().manual_seed(1))
    probe = step(model).probe
    found = projections(model, tokens, probe)
    every = torch.stack(
        [states[:, 1:].double() @ probe[layer] for layer, states in enumerate(streams(model, tokens))], -1
    )
    torch.testing.assert_close(found, every.flatten(0, 1), atol=1e-4, rtol=1e-4)
