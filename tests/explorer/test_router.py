"""The router's tab and an expert's page, by plain loops."""

import json

import every_type
import pytest
import tiny
import torch
from commands import neuroglot

import neuroglot as ng
from neuroglot.artifacts.examples import context
from neuroglot.explorer.app import build
from neuroglot.explorer.expert import Router, expert_page
from neuroglot.explorer.neuron import describe_neuron
from neuroglot.explorer.run_view import RunView
from neuroglot.models.architecture.hooks import observe_routing
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def opened(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("moe")
    model = ng.Model(every_type.network("glm4_moe"), tiny.tokenizer()).save(folder / "model")
    neuroglot("record", model, corpus, "--out", folder / "run", "--block", 32, "--tokens", 600, "--examples", 2)
    neuroglot("identify", folder / "run", "--top-fraction", 0.1)
    return RunView(Run.open(folder / "run"))


@pytest.fixture(scope="module")
def router(opened):
    return Router(opened, opened.experts)


def test_an_expert_by_brute_force(router, opened):
    recording = opened.recording
    layer = router.numbers[-1] - 1
    expert = router.expert(layer, 1)
    routed = recording.sum("routed")[layer]
    for k, (tag, tokens, share, low, high, choices) in enumerate(expert.rows):
        assert tag == recording.languages[k] and tokens == int(routed[1, k])
        assert share == pytest.approx(tokens / int(recording.tokens[k])) and low <= share <= high
        assert choices == pytest.approx(tokens / int(routed[:, k].sum()))
    own = opened.neurons["lape"].mask[:, layer, expert.width : 2 * expert.width]
    assert list(expert.sets["lape"].values()) == own.sum(1).tolist()
    given = recording.given_routing().probabilities[layer]
    for number, tag, apart in expert.neurons:
        assert expert.width <= number < 2 * expert.width
        k = recording.languages.index(tag)
        others = [i for i in range(len(recording.languages)) if i != k]
        assert apart == pytest.approx(float(given[number, k] - given[number, others].mean()))
    page = expert_page(expert)
    assert f"Layer {layer + 1}, expert 1" in page and "<mark>" in page
    with pytest.raises(ng.NeuroglotError, match="no such expert"):
        router.expert(layer, 99)


def test_the_tokens_on_which_an_expert_counts_most_are_those_of_the_model(router, opened):
    model, recording = opened.model, opened.recording
    layer, tag = router.numbers[0] - 1, recording.languages[0]
    kept = recording.examples.of(0, layer, recording.widths[layer] + 2)
    seen = []
    for example in kept:
        around = context(opened.run.path / "recording", example, recording.examples.text)
        tokens = torch.tensor([[*model.begin, *around.before, around.token]])
        weights = {}
        with (
            torch.no_grad(),
            observe_routing(model.ffns, lambda at, each, found=weights: found.update({at: each}), weighed=True),
        ):
            model.hidden_states(tokens)
        if len(around.before) < 20:  # else its block began before
            assert float(weights[layer][0, -1, 2]) == pytest.approx(example.value, rel=1e-4)
            seen.append(tag)
    assert kept and seen


def test_the_app_has_the_tab_and_plots_frequencies(router, opened):
    assert router.numbers == [2, 3, 4]  # its first layer is dense
    frequency = ng.experts.frequencies(opened.recording)
    plot = router.plot(router.languages[0])
    assert plot["data"][0]["y"] == router.numbers and json.dumps(router.plot(*router.languages[:2]))
    assert float(frequency[:, 0].sum()) == 0
    assert build(opened) is not None
    neuron = describe_neuron(router.atlas, router.numbers[0] - 1, 17)
    assert neuron.expert == 17 // router.expert(router.numbers[0] - 1, 0).width
