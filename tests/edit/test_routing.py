"""Recipes of a native mixture of experts: what they say, keep, compose with, generate under, and bake."""

import every_type
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.conditions import Condition
from neuroglot.edit.directions import shuffled
from neuroglot.edit.positions import prompt_length

TOKENS = every_type.TOKENS


@pytest.fixture(scope="module")
def model() -> ng.Model:
    return ng.Model(every_type.network("qwen2_moe"), tiny.tokenizer())


@pytest.fixture(scope="module")
def recording(model) -> ng.Recording:
    return ng.record(
        model, tiny.corpus(), block=16, progress=False, statistics=("active", "activation", "hidden", "residual")
    )


def states(model, *steps):
    with torch.no_grad(), ng.intervene(model, *steps):
        return model.hidden_states(TOKENS).clone()


def test_the_experts_of_a_language_are_those_it_is_routed_to_more_than_others(recording):
    frequency = ng.experts.frequencies(recording)
    apart = frequency[1] - (frequency[0] + frequency[2]) / 2
    experts = ng.language_experts(recording, "fr")
    for layer in range(4):
        wanted = {e for e in apart[layer].topk(2).indices.tolist() if apart[layer, e] > 0}
        assert set(experts[layer].nonzero().flatten().tolist()) == wanted
    assert int(ng.language_experts(recording, "fr", 1).sum(1).max()) == 1


def test_a_recipe_of_the_router_is_its_changes_with_neurons_and_a_direction(model, recording, tmp_path):
    own, off = ng.language_experts(recording, "fr"), ng.language_experts(recording, "en")
    router = (ng.DeactivateExperts(off & ~own), ng.FavourExperts(own, strength=3.0))
    recipe = ng.steer(recording, to="fr", source="en", method="router", strength=3.0)
    with torch.no_grad(), recipe.applied(model):
        got = model.hidden_states(TOKENS)
    assert torch.equal(got, states(model, *router)) and not torch.allclose(got, states(model))
    neurons = ng.identify.lape(recording, top_fraction=0.08)
    joined = (
        ng.steer(recording, neurons, "fr", source="en", method="router", strength=3.0)
        + ng.steer(recording, to="fr", method="diffmean", layers=[1], strength=2.0)
    )  # fmt: skip
    target = neurons["fr"]
    by_hand = (
        ng.Deactivate(neurons["en"] & ~target),
        ng.Replace(target, recording.language_mean("fr")),
        *router,
        *ng.steer(recording, to="fr", method="diffmean", layers=[1], strength=2.0).steps,
    )
    loaded = ng.Recipe.load(joined.save(tmp_path / "r.safetensors"))
    assert loaded.digest == joined.digest and loaded.about == joined.about and "experts" in repr(loaded)
    expected = states(model, *by_hand)
    for each in (joined, loaded):
        with torch.no_grad(), each.applied(model):
            torch.testing.assert_close(model.hidden_states(TOKENS), expected)
    condition = Condition("x", loaded.steps)
    assert condition.neurons == int((target | neurons["en"]).sum()) and len(condition.digest) == 32


def test_a_recipe_of_the_router_acts_on_generated_tokens_only(model, recording):
    recipe = ng.steer(recording, to="fr", method="router", strength=50.0, when="generated")
    with torch.no_grad(), recipe.applied(model), prompt_length(model, 4):
        got = model.hidden_states(TOKENS)
    torch.testing.assert_close(got[:, :4], states(model)[:, :4])
    assert not torch.allclose(got[:, 4:], states(model)[:, 4:])


def test_recipes_of_rows_of_the_router_are_those_of_each_alone(model, recording):
    recipes = [
        ng.steer(recording, to="fr", source="en", method="router", strength=20.0),
        None,
        ng.steer(recording, to="en", method="router", strength=20.0, when="generated"),
    ]
    prompts = ["one", "another prompt", "a third"]
    how = {"tokens": 6, "repetition_penalty": 1.0}
    together = ng.evaluate.generate(model, prompts, recipes=recipes, **how)
    alone = [
        ng.evaluate.generate(model, [prompt], recipes=[recipe], **how)[0]
        for prompt, recipe in zip(prompts, recipes, strict=True)
    ]
    plain = ng.evaluate.generate(model, prompts, recipes=recipes, engine="huggingface", **how)
    assert together == alone == plain


def test_a_random_baseline_has_as_many_experts_of_each_layer(recording):
    step = ng.DeactivateExperts(ng.language_experts(recording, "fr"))
    drawn = shuffled(step, 1)
    assert torch.equal(drawn.experts.sum(1), step.experts.sum(1))
    assert any(not torch.equal(shuffled(step, seed).experts, step.experts) for seed in range(5))


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "gpt_oss", "aria_text"])
def test_neurons_of_experts_are_baked(kind, tmp_path):
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    off = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(3)) < 0.3
    steps = (ng.Deactivate(off & model.exists), ng.Scale(~off & model.exists, 0.5, site="hidden"))
    intact = states(model)
    expected = states(model, *steps)
    ng.bake(model, steps, tmp_path / "baked")
    torch.testing.assert_close(states(ng.load_model(tmp_path / "baked")), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(states(model), intact)
    with pytest.raises(ng.NeuroglotError, match="constant needs a bias"):
        ng.bake(model, ng.Add(off & model.exists, 1.0, site="hidden"), tmp_path / "added")


@pytest.mark.parametrize("kind", ["gpt_oss", "deepseek_v3"])
def test_experts_are_taken_out_of_a_router_that_has_a_bias(kind, tmp_path):
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    experts = torch.zeros(model.layers, 4, dtype=torch.bool)
    experts[list(model.mixtures), 1] = True
    expected, intact = states(model, ng.DeactivateExperts(experts)), states(model)
    ng.bake(model, ng.DeactivateExperts(experts), tmp_path / "baked")
    torch.testing.assert_close(states(ng.load_model(tmp_path / "baked")), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(states(model), intact)
    if kind == "gpt_oss":
        favoured = ng.FavourExperts(experts, strength=1.5)
        ng.bake(model, favoured, tmp_path / "favoured")
        got = states(ng.load_model(tmp_path / "favoured"))
        torch.testing.assert_close(got, states(model, favoured), rtol=1e-4, atol=1e-4)
    else:  # its bias is added to scores after a sigmoid, and chosen experts are weighted without it
        with pytest.raises(ng.NeuroglotError, match="keep the recipe"):
            ng.bake(model, ng.FavourExperts(experts, strength=1.5), tmp_path / "favoured")
        assert torch.equal(states(model), intact) and not (tmp_path / "favoured").exists()


def test_what_a_router_cannot_hold_or_do_is_one_sentence(model, recording, tmp_path):
    off = torch.zeros(4, 4, dtype=torch.bool)
    off[:, 1] = True
    dense = ng.record(tiny.model(), tiny.corpus(), block=16, progress=False)
    beyond = torch.zeros(4, 9, dtype=torch.bool)
    for step, why in (
        (lambda: ng.bake(model, ng.DeactivateExperts(off), tmp_path / "x"), "have no bias"),
        (lambda: ng.steer(dense, to="fr", method="router"), "this model is dense"),
        (lambda: ng.steer(recording, method="router"), "Name a language"),
        (lambda: ng.steer(recording, to="fr", source="en", method="router", when="prompt"), "on all tokens"),
        (lambda: ng.steer(recording, to="fr", method="router").export(tmp_path / "x.gguf"), "acts on experts"),
        (lambda: states(model, ng.DeactivateExperts(beyond)), "4 layers × 4 experts"),
        (lambda: ng.bake(model, ng.FavourExperts(off, when="prompt"), tmp_path / "x"), "depend on the position"),
        (lambda: states(tiny.model(), *ng.steer(recording, to="fr", method="router").steps), "is dense"),
    ):
        with pytest.raises(ng.NeuroglotError, match=why):
            step()
    assert not list(tmp_path.iterdir())
