"""The scores and regions against explicit loops over pairs, and the laws they obey."""

import itertools
import math

import numpy as np
import pytest
import shapes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.identify.key_regions import region_sizes
from neuroglot.stats import bootstrap_weights

TAGS = ["en", "zh", "fr", "es", "vi", "id", "ja", "pt", "ar", "hi", "bn", "ur"]
LAYERS, NEURONS, WIDTH = 3, 7, 5


def make(languages: int, count: int = 5, seed: int = 0, layers: int = LAYERS) -> ng.Samples:
    """Random samples of very unequal norms, with something of the language and of the meaning in each."""
    generator = np.random.default_rng(seed)

    def draw(width: int) -> np.ndarray:
        own = generator.normal(size=(languages, 1, width))
        meaning = generator.normal(size=(1, count, width))
        noise = generator.normal(size=(languages, count, width))
        return (own + 0.7 * meaning + noise) * generator.lognormal(0, 2, size=(languages, count, 1))

    states = draw(layers * WIDTH).reshape(languages, count, layers, WIDTH)
    return ng.Samples.from_vectors(draw(layers * NEURONS), TAGS[:languages], layers=layers, states=states)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def pair_loop(vectors: np.ndarray) -> tuple[float, float]:
    """LRDS and SADS by the paper's words: one pair of samples at a time."""
    places = list(itertools.product(range(len(vectors)), range(len(vectors[0]))))
    language, meaning, neither = [], [], []
    for (k, i), (m, j) in itertools.combinations(places, 2):
        similarity = cosine(vectors[k, i], vectors[m, j])
        if k == m:
            language.append(similarity)
        elif i == j:
            meaning.append(similarity)
        else:
            neither.append(similarity)
    return float(np.mean(language) - np.mean(neither)), float(np.mean(meaning) - np.mean(neither))


@pytest.mark.parametrize("languages", range(2, 13))
def test_scores_equal_the_pair_loop(languages):
    samples = make(languages, seed=languages)
    vectors = samples.vectors.numpy()
    lrds, sads = pair_loop(vectors)
    assert ng.alignment.lrds(samples) == pytest.approx(lrds, abs=1e-12)
    assert ng.alignment.sads(samples) == pytest.approx(sads, abs=1e-12)
    table = ng.alignment.by_layer(samples, draws=0)
    for layer in range(LAYERS):
        lrds, sads = pair_loop(samples.layer(layer).numpy())
        assert table.loc[layer + 1, "lrds"] == pytest.approx(lrds, abs=1e-12)
        assert table.loc[layer + 1, "sads"] == pytest.approx(sads, abs=1e-12)
        assert ng.alignment.sads(samples, layer=layer) == pytest.approx(sads, abs=1e-12)


@pytest.mark.parametrize("languages", [1, 2, 5, 12])
def test_the_map_holds_every_cosine(languages):
    samples = make(languages)
    for layer in (None, 1):
        vectors = (samples.vectors if layer is None else samples.layer(layer)).flatten(0, 1).numpy()
        by_hand = [[cosine(x, y) for y in vectors] for x in vectors]
        np.testing.assert_allclose(ng.alignment.similarity_map(samples, layer), by_hand, atol=1e-12)


def contribution_loop(vectors: np.ndarray) -> np.ndarray:
    total = np.zeros((len(vectors), vectors.shape[2]))
    for k, rows in enumerate(vectors):
        for i in range(len(rows)):
            for j in range(i + 1, len(rows)):
                total[k] += rows[i] * rows[j]
    return total


@pytest.mark.parametrize("languages", range(2, 13))
def test_regions_equal_the_pair_loop(languages):
    samples = make(languages, count=6, seed=languages, layers=40)
    scores = contribution_loop(samples.vectors.numpy())
    np.testing.assert_allclose(ng.identify.contributions(samples).flatten(1), scores, rtol=0, atol=1e-14)
    threshold = 0.8 * math.sqrt(languages - 1)
    z = (scores - scores.mean(0)) / scores.std(0)
    regions = ng.identify.key_regions(samples, threshold=threshold)
    assert np.array_equal(regions.mask.flatten(1).numpy(), z > threshold)
    assert ng.alignment.sklr(regions) == (z > threshold).sum() > 0
    table = ng.alignment.by_layer(samples, threshold=threshold, draws=0)
    assert table["sklr"].tolist() == regions.counts().sum(axis=1).tolist()


@pytest.mark.filterwarnings("ignore:No neuron")
@given(st.integers(3, 12), st.randoms(use_true_random=False), st.integers(0, 99))
@settings(max_examples=25)
def test_permuting_the_languages_permutes_the_results(languages, random, seed):
    samples = make(languages, seed=seed)
    order = random.sample(samples.languages, languages)
    other = samples.select(order)
    assert ng.alignment.lrds(other) == pytest.approx(ng.alignment.lrds(samples), abs=1e-12)
    assert ng.alignment.sads(other) == pytest.approx(ng.alignment.sads(samples), abs=1e-12)
    assert ng.identify.key_regions(other, threshold=1.1) == ng.identify.key_regions(samples, threshold=1.1).select(
        order
    )
    np.testing.assert_allclose(ng.alignment.dominance(other)[order], ng.alignment.dominance(samples)[order])
    np.testing.assert_allclose(ng.alignment.ses(other), ng.alignment.ses(samples))


@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=25)
def test_norms_do_not_matter_and_scores_are_bounded(languages, count, seed):
    samples = make(languages, count, seed)
    scale = torch.linspace(1e-3, 1e3, languages * count, dtype=torch.float64).view(languages, count, 1)
    scaled = ng.Samples.from_vectors(samples.vectors * scale, samples.languages, layers=LAYERS)
    torch.testing.assert_close(scaled.vectors.norm(dim=2), torch.ones(languages, count, dtype=torch.float64))
    for score in (ng.alignment.lrds, ng.alignment.sads):
        assert score(scaled) == pytest.approx(score(samples), abs=1e-12)
        assert -2 <= score(samples) <= 2


def test_one_vector_for_each_language_or_each_meaning():
    languages = torch.eye(3)[:, None].expand(3, 4, 3)
    alone = ng.Samples.from_vectors(languages, TAGS[:3], layers=1)
    assert (ng.alignment.lrds(alone), ng.alignment.sads(alone)) == (1, 0)
    meanings = torch.eye(4)[None].expand(3, 4, 4)
    alone = ng.Samples.from_vectors(meanings, TAGS[:3], layers=1)
    assert (ng.alignment.lrds(alone), ng.alignment.sads(alone)) == (0, 1)


@pytest.mark.parametrize("languages", [2, 3, 7])
def test_ses_and_dominance_equal_the_loops(languages):
    samples = make(languages)
    states = samples.states.numpy()
    ses, dominance = ng.alignment.ses(samples), ng.alignment.dominance(samples)
    for layer in range(LAYERS):
        h = states[:, :, layer]
        pairs = itertools.combinations(range(languages), 2)
        by_hand = np.mean([cosine(h[k, i], h[m, i]) for k, m in pairs for i in range(len(samples))])
        assert ses[layer + 1] == pytest.approx(by_hand, abs=1e-12)
        v = h.mean(1)
        for c, target in enumerate(samples.languages):
            others = [k for k in range(languages) if k != c]
            by_hand = np.mean([cosine(h[k, i] - v[k] + v[c], h[c, i]) for k in others for i in range(len(samples))])
            assert dominance.loc[layer + 1, target] == pytest.approx(by_hand, abs=1e-12)


def test_a_bootstrap_draw_is_the_score_of_the_meanings_it_draws():
    samples = make(6, count=8, layers=10)
    weights = bootstrap_weights(8, 5, seed=1)
    sizes = region_sizes(samples, 1.5, weights)
    assert torch.equal(
        sizes[0].T, torch.tensor(ng.identify.key_regions(samples, threshold=1.5).counts().to_numpy().tolist())
    )
    for draw, row in zip(weights[1:], sizes[1:], strict=True):
        drawn = draw.long().tolist()
        assert sum(drawn) == 8
        meanings = [i for i, times in enumerate(drawn) for _ in range(times)]
        vectors = samples.vectors[:, meanings].numpy()
        scores = np.zeros((6, vectors.shape[2]))
        for (x, i), (y, j) in itertools.combinations(enumerate(meanings), 2):
            if i != j:
                scores += vectors[:, x] * vectors[:, y]
        z = (scores - scores.mean(0)) / scores.std(0)
        assert (z > 1.5).sum(1).tolist() == row.sum(1).tolist()


def test_intervals_hold_the_value_and_narrow_with_more_samples():
    few = ng.alignment.summary(make(4, count=10), draws=300, threshold=1.5)
    many = ng.alignment.summary(make(4, count=160), draws=300, threshold=1.5)
    for table in (few, many):
        for score in ("lrds", "sads"):
            assert table.loc[score, "low"] <= table.loc[score, "value"] <= table.loc[score, "high"]
    width = few["high"] - few["low"], many["high"] - many["low"]
    assert width[1]["lrds"] < width[0]["lrds"] / 2
    assert width[1]["sads"] < width[0]["sads"] / 2
    assert ng.alignment.summary(make(4), draws=100).equals(ng.alignment.summary(make(4), draws=100))


def test_a_neuron_that_treats_all_languages_alike_is_in_no_region():
    vectors = torch.rand(6, 4, 10, dtype=torch.float64)
    vectors[:, :, 0] = 0
    vectors[:, :, 1] = 0.1
    vectors /= vectors.norm(dim=2, keepdim=True)
    vectors[:, :, 1] = vectors[0, :, 1]  # the same in every language to the last bit
    samples = ng.Samples(vectors, tuple(TAGS[:6]), tuple("abcd"), 1)
    regions = ng.identify.key_regions(samples, threshold=0.0)
    assert not regions.mask[:, 0, :2].any()
    assert regions.mask[:, 0, 2:].any(0).all()


@pytest.mark.filterwarnings("ignore:No neuron")
def test_a_neuron_of_one_language_is_in_its_region_as_soon_as_any_can_be():
    for languages in range(2, 13):
        vectors = torch.full((languages, 3, 2), 0.5, dtype=torch.float64)
        vectors[1, :, 1] = 2.0
        vectors[torch.arange(languages) != 1, :, 1] = 0
        samples = ng.Samples.from_vectors(vectors, TAGS[:languages], layers=1)
        limit = math.sqrt(languages - 1)
        regions = ng.identify.key_regions(samples, threshold=limit - 1e-6) if languages > 2 else None
        if regions is not None:
            assert regions.mask[:, 0, 1].tolist() == [k == 1 for k in range(languages)]
        with pytest.raises(ng.NeuroglotError, match=rf"√{languages - 1} = {limit:.2f}"):
            ng.identify.key_regions(samples, threshold=limit)


def test_the_limit_says_how_many_languages_are_needed():
    with pytest.raises(ng.NeuroglotError, match=r"With 5 languages .* √4 = 2\.00.* at least 6 languages"):
        ng.identify.key_regions(make(5), threshold=2.0)
    assert ng.identify.key_regions(make(6, layers=200), threshold=2.0).mask.any()


def test_what_cannot_be_compared_is_refused():
    one = make(2).select(["en"])
    for score in (
        ng.alignment.lrds,
        ng.alignment.sads,
        ng.alignment.ses,
        ng.alignment.dominance,
        ng.alignment.by_layer,
    ):
        with pytest.raises(ng.NeuroglotError, match="in en only"):
            score(one)
        with pytest.raises(ng.NeuroglotError, match="one sample only"):
            score(make(3, count=1))
    with pytest.raises(ng.NeuroglotError, match="in en only"):
        ng.identify.key_regions(one)
    with pytest.raises(ng.NeuroglotError, match="there is one only"):
        ng.identify.key_regions(make(8, count=1))
    with pytest.raises(ng.NeuroglotError, match="no layer 3"):
        ng.alignment.lrds(make(2), layer=3)
    with pytest.raises(ng.NeuroglotError, match="no residual-stream states"):
        ng.alignment.ses(ng.Samples.from_vectors(torch.rand(2, 3, 4), ["en", "fr"], layers=2))


def test_two_methods_are_compared_by_language():
    one = ng.NeuronSet(torch.tensor([[[1, 1, 0, 0]], [[0, 0, 1, 1]]]).bool(), ["en", "fr"])
    two = ng.NeuronSet(torch.tensor([[[0, 0, 0, 1]], [[1, 0, 1, 0]]]).bool(), ["fr", "en"])
    table = ng.alignment.compare(one, two)
    assert table.loc["en"].tolist() == [2, 2, 1, 1.0, 1 / 3]
    assert table.loc["fr"].tolist() == [2, 1, 1, 0.5, 1 / 2]
    with pytest.raises(ng.NeuroglotError, match="two models"):
        ng.alignment.compare(one, ng.NeuronSet(torch.zeros(1, 2, 4).bool(), ["en"]))


def test_regions_over_experts():
    neurons = ng.NeuronSet(torch.tensor([[[1, 1, 0, 1], [0, 1, 0, 0]]]).bool(), ["en"])
    labels = torch.tensor([[0, 0, 1, 1], [1, 2, 0, 1]])
    assert ng.alignment.by_expert(neurons, labels).tolist() == [[[2, 1, 0], [0, 0, 1]]]
    with shapes.unchecked(), pytest.raises(ng.NeuroglotError, match="labels must be"):
        ng.alignment.by_expert(neurons, labels[:1])
    chosen = torch.tensor([[[True, False, False], [False, True, True]]])
    table = ng.alignment.in_experts(neurons, labels, chosen)
    # layer 1: two of three neurons in expert 0, half of the layer; layer 2: one of one, in three quarters of it
    assert table.loc["en"].tolist() == pytest.approx([4, 3, 3 * 0.5 + 1 * 0.75, 3 / 2.25])
    with shapes.unchecked(), pytest.raises(ng.NeuroglotError, match="chosen must be"):
        ng.alignment.in_experts(neurons, labels, chosen[:, :1])
