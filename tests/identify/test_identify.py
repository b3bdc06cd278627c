"""The methods against plain loops, and their laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.neurons import NeuronSet

TAGS = ["en", "zh", "fr", "es", "vi", "id"]


def lape_by_loops(values, top_fraction, quantile):
    """DESIGN's definition, neuron by neuron; `values` is (L, N, K) as nested lists."""
    flat = sorted(v for layer in values for neuron in layer for v in neuron)
    threshold = flat[max(1, round(quantile * len(flat))) - 1]
    ranked = []
    for i, layer in enumerate(values):
        for j, neuron in enumerate(layer):
            if not any(v > threshold for v in neuron):
                continue
            total = math.fsum(neuron)
            entropy = -math.fsum(v / total * math.log(v / total) for v in neuron if v > 0)
            ranked.append((round(entropy, 12), i, j))
    ranked.sort()
    count = round(top_fraction * len(values) * len(values[0]))
    chosen = set()
    for _, i, j in ranked[:count]:
        chosen |= {(k, i, j) for k, v in enumerate(values[i][j]) if v > threshold}
    return chosen


@st.composite
def recordings(draw):
    layers, width, languages = draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(2, 6))
    # few tokens, so that ties and never-active neurons are common
    tokens = [draw(st.integers(1, 6)) for _ in range(languages)]
    active = [[[draw(st.integers(0, n)) for n in tokens] for _ in range(width)] for _ in range(layers)]
    return ng.Recording.from_counts(torch.tensor(active), torch.tensor(tokens), TAGS[:languages])


def as_set(neurons: NeuronSet):
    return {tuple(index) for index in neurons.mask.nonzero().tolist()}


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
@settings(max_examples=200)
@given(recordings(), st.sampled_from([0.05, 0.3, 1.0]), st.sampled_from([0.5, 0.8, 0.95]))
def test_lape_equals_plain_loops(recording, top_fraction, quantile):
    neurons = ng.identify.lape(recording, top_fraction=top_fraction, activity_quantile=quantile)
    assert as_set(neurons) == lape_by_loops(recording.probabilities.tolist(), top_fraction, quantile)


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
@settings(max_examples=100)
@given(recordings(), st.randoms())
def test_permuting_languages_permutes_results(recording, random):
    order = list(recording.languages)
    random.shuffle(order)
    for method in (ng.identify.lape, ng.identify.lap):
        assert method(recording.select(order)) == method(recording).select(order)
    assert ng.identify.random(recording.select(order)) == ng.identify.random(recording).select(order)


def test_equal_distributions_of_unequal_counts_are_a_tie():
    active = torch.tensor([[[3, 6], [2, 4], [1, 4], [0, 0]]])  # of 4 and 6 tokens: 3/4 : 1 and 1/2 : 2/3 are alike
    recording = ng.Recording.from_counts(active, [4, 6], ["en", "fr"])
    chosen = ng.identify.lape(recording, top_fraction=0.5, activity_quantile=0.5).union()
    assert chosen[0].tolist() == [True, False, True, False]


def test_lave_is_lape_on_positive_means():
    generator = torch.Generator().manual_seed(0)
    shape, tokens = (3, 40, 4), torch.tensor([10, 20, 30, 40])
    sums = torch.randn(shape, generator=generator, dtype=torch.float64) * tokens
    recording = ng.Recording.from_counts(torch.zeros(shape), tokens, TAGS[:4], activation=sums)
    means = (sums / tokens).clamp_min(0)
    assert as_set(ng.identify.lave(recording, top_fraction=0.1)) == lape_by_loops(means.tolist(), 0.1, 0.95)


def test_a_neuron_of_one_language_is_found_and_a_dead_one_never():
    active = torch.full((2, 100, 3), 50)
    active[0, 7] = torch.tensor([0, 99, 0])  # French alone
    active[1, 9] = torch.tensor([98, 0, 97])  # English and Urdu
    active[1, 10] = 0
    recording = ng.Recording.from_counts(active, [100, 100, 100], ["en", "fr", "ur"])
    neurons = ng.identify.lape(recording, top_fraction=0.01)
    assert as_set(neurons) == {(1, 0, 7), (0, 1, 9), (2, 1, 9)}
    with pytest.warns(ng.NeuroglotWarning, match="found 2 neurons where 20"):
        assert as_set(ng.identify.lape(recording, top_fraction=0.1)) == {(1, 0, 7), (0, 1, 9), (2, 1, 9)}


def test_scale_of_a_70b_model():
    """2.3 M neurons × 20 languages: the shape works, and picks the number asked for."""
    shape = (80, 28_672, 20)
    active = torch.randint(0, 1_000, shape, generator=torch.Generator().manual_seed(0))
    tags = "en zh fr es vi id ja pt ar hi bn ur ru de ko tr sw ta te th".split()
    recording = ng.Recording.from_counts(active, torch.full((20,), 1_000), tags)
    assert int(ng.identify.lape(recording).union().sum()) == round(0.01 * 80 * 28_672)


def test_lap_is_a_threshold():
    active = torch.tensor([[[96, 95], [0, 100]]])
    recording = ng.Recording.from_counts(active, [100, 100], ["en", "fr"])
    assert as_set(ng.identify.lap(recording)) == {(0, 0, 0), (1, 0, 1)}
    with pytest.warns(ng.NeuroglotWarning, match="no neuron above 0.99 in en"):
        ng.identify.lap(recording, threshold=0.99)


def test_random_has_the_sizes_asked_for_and_is_seeded():
    mask = torch.zeros(2, 3, 50, dtype=torch.bool)
    mask[0, 0, :7] = True
    mask[1, 2, :20] = True
    like = NeuronSet(mask, ["en", "fr"])
    drawn = ng.identify.random(like, seed=3)
    assert drawn.sizes() == {"en": 7, "fr": 20}
    assert drawn == ng.identify.random(like, seed=3)
    assert drawn != ng.identify.random(like, seed=4)
    assert (drawn.counts()["fr"] > 0).all()  # over all layers
    recording = ng.Recording.from_counts(torch.zeros(3, 50, 2), [1, 1], ["en", "fr"])
    assert ng.identify.random(recording, top_fraction=0.1).sizes() == {"en": 15, "fr": 15}


def test_refusals():
    one = ng.Recording.from_counts(torch.zeros(2, 3, 1), [1], ["en"])
    with pytest.raises(ng.NeuroglotError, match="only en"):
        ng.identify.lape(one)
    two = ng.Recording.from_counts(torch.zeros(2, 3, 2), [1, 1], ["en", "fr"])
    for call in (
        lambda: ng.identify.lape(two, top_fraction=0),
        lambda: ng.identify.lape(two, activity_quantile=1.1),
        lambda: ng.identify.lap(two, threshold=1),
        lambda: ng.identify.random(two, top_fraction=2),
        lambda: ng.identify.lave(two),  # activations were not recorded
    ):
        with pytest.raises(ng.NeuroglotError):
            call()
