"""Conditions: what is done under them, and what their digests tell apart."""

from dataclasses import dataclass

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.conditions import Condition, digest_of_steps
from neuroglot.edit.interventions import Intervention

MASK = torch.rand(3, 24, generator=torch.Generator().manual_seed(0)) < 0.3
VALUES = torch.rand(3, 24, generator=torch.Generator().manual_seed(1))
WEIGHT = "model.layers.1.mlp.down_proj.weight"


@dataclass(frozen=True, eq=False)
class Clip(Intervention):
    """Somebody else's intervention."""

    top: float = 1.0

    def change(self, current, given):
        return current.clamp_max(self.top)


def logits(model):
    return model.logits(model.hidden_states(torch.arange(12)[None]))


def test_a_condition_is_its_steps_and_leaves_the_model_as_it_was():
    model = tiny.model()
    intact = logits(model)
    weight = model.network.get_parameter(WEIGHT)
    before = weight.detach().clone()
    with ng.intervene(model, ng.Deactivate(MASK), ng.Raise(MASK, VALUES)):
        expected = logits(model)
    with Condition("both", (ng.Deactivate(MASK), ng.Raise(MASK, VALUES))).applied(model):
        assert torch.equal(logits(model), expected) and not torch.equal(expected, intact)
    with Condition("zeroed", (ng.Deactivate(MASK), {WEIGHT: torch.arange(50)})).applied(model):
        assert not weight.flatten()[:50].any()
    assert torch.equal(weight, before) and torch.equal(logits(model), intact)
    with Condition("intact").applied(model):
        assert torch.equal(logits(model), intact)
    with (
        pytest.raises(ng.NeuroglotError, match="use neurons found in this model"),
        Condition("other", (ng.Deactivate(torch.ones(1, 4, dtype=torch.bool)),)).applied(model),
    ):
        pass


def test_a_digest_is_of_what_is_done():
    one = Condition("fr off", (ng.Deactivate(MASK),))
    assert one.digest == Condition("another name", (ng.Deactivate(MASK.clone()),), seed=3, only="_fr$").digest
    outside = torch.where(MASK, VALUES, VALUES + 1)
    assert Condition("a", (ng.Add(MASK, VALUES),)).digest == Condition("a", (ng.Add(MASK, outside),)).digest
    nothing = torch.zeros_like(MASK)
    empty = (ng.Deactivate(nothing), {WEIGHT: torch.arange(0)})
    assert Condition("x", empty).digest == Condition("intact").digest
    different = [
        (),
        (ng.Deactivate(MASK),),
        (ng.Deactivate(~MASK),),
        (ng.Deactivate(MASK, when="prompt"),),
        (ng.Deactivate(MASK, site="hidden"),),
        (ng.Replace(MASK, VALUES),),
        (ng.Replace(MASK, 1.0),),
        (ng.Replace(MASK, VALUES, 2.0),),
        (ng.Raise(MASK, VALUES),),
        (ng.Deactivate(MASK), ng.Raise(~MASK, VALUES)),
        (ng.Raise(~MASK, VALUES), ng.Deactivate(MASK)),
        (Clip(MASK),),
        (Clip(MASK, top=2.0),),
        ({WEIGHT: torch.arange(50)},),
        ({WEIGHT: torch.arange(51)},),
        ({WEIGHT.replace("1", "2"): torch.arange(50)},),
    ]
    assert len({Condition("x", steps).digest for steps in different}) == len(different)


def test_a_recipe_s_digest_is_that_of_its_steps_in_its_model():
    steps = (ng.Deactivate(MASK), ng.Raise(~MASK, VALUES, 2.0))
    assert ng.Recipe(steps, "one").digest == digest_of_steps(steps, "one") != digest_of_steps(steps, "two")


def test_neurons_are_counted_once():
    assert Condition("intact").neurons == 0
    assert Condition("x", (ng.Deactivate(MASK), ng.Scale(MASK, 2.0))).neurons == int(MASK.sum())
