"""Neurons and heads at budgets that hold the same parameters, in one comparison."""

import pytest
import tiny

import neuroglot as ng
from neuroglot.evaluate.ablation.units import unit_costs
from neuroglot.run.comparison import CompareSettings, compare_run
from neuroglot.run.directory import Run
from neuroglot.run.recording import begin_run
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_a_unit_holds(family):
    """Neurons and heads hold all of a layer but its norms, in a model without biases."""
    model = tiny.model(family)
    costs = unit_costs(model, 32, heads=True)
    biases = sum(weight.numel() for name, weight in model.network.named_parameters() if weight.ndim == 1)
    positions = 128 * 16 if family == "gpt2" else 0
    attention = sum(
        weight.numel() for name, weight in model.network.named_parameters() if ".attn." in name and weight.ndim == 1
    )
    whole = costs.neurons * costs.neuron + costs.heads * costs.head
    assert whole == costs.model - (biases - attention) - positions
    assert costs.share("neurons", 0.1) == 0.1
    share = costs.share("heads", 0.5)
    assert share * costs.heads == round(0.5 * costs.neurons * costs.neuron / costs.head)
    held = costs.held("heads", 3)
    assert held["parameters"] == 3 * costs.head / costs.model
    assert held["flops"] > held["parameters"]  # scores and mixtures besides


def test_a_comparison_of_neurons_heads_and_gradients(tmp_path, checkpoint, corpus):
    run, model, _ = begin_run(
        tmp_path / "run",
        ModelSettings(source=str(checkpoint)),
        TextSettings(source=str(corpus)),
        RunRecordSettings(block=32, tokens=400),
    )
    settings = CompareSettings(
        methods=["lave", "plnd", "attribution", "relevance", "random"], units=["neurons", "heads"], budget=0.3,
        tokens=200, block=32, seeds=2, defaults=False, close=["lave"],
    )  # fmt: skip
    result = compare_run(run, model, settings, progress=False)
    table = result.summary(resamples=50)
    whole = table[table.part == "all"].set_index("method")
    both = [f"{method}{units}" for units in ("", " heads") for method in settings.methods]
    assert list(whole.index) == both
    assert whole.units.tolist() == ["neurons"] * 5 + ["heads"] * 5
    ratio = whole.parameters["random heads"] / whole.parameters["random"]
    assert 0.5 < ratio < 2  # a head is a third of an attention, so it is as near as one can be
    assert whole.split_half.drop(["random", "random heads"]).notna().all()
    assert (whole.seconds.drop(["random", "random heads"]) > 0).all()
    heads = result.perturbation("lave heads 0.3 all")
    assert set(heads.random) == {"0", "1"}  # random heads, not random neurons

    seconds = result.seconds
    assert "attribution" in seconds["attribution"] and "recording" not in seconds["attribution"]
    evidence = ng.Recording.load(run.path / "comparison/evidence/half-1-output-heads/recording.safetensors")
    sets = ng.identify.select_top(
        ng.identify.rank("lave", ng.identify.Evidence(evidence.of("heads"))), evidence.languages, 0.5
    )
    assert sets.shape == (3, 2)
    with ng.intervene(model, ng.Deactivate(sets["fr"], site="heads")):
        pass

    again = compare_run(Run.open(run.path), model, settings, progress=False)
    assert again.off == result.off
