"""Methods as rankings with equal budgets, and the activation margin."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.recording import EXPERTS, Recording
from neuroglot.identify.margin import margins
from neuroglot.identify.ranking import RANKINGS, rank
from neuroglot.identify.selection import Evidence, select_top

TAGS = ["en", "zh", "fr", "es"]
L, N, K = 2, 30, 4


def evidence(seed=0, draw=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, 400, (K,), generator=generator)
    active = (torch.rand(L, N, K, generator=generator) * (tokens + 1)).long().minimum(tokens)

    def sums():
        return torch.randn(L, N, K, generator=generator, dtype=torch.float64) * tokens

    more = {name: sums().abs() for name in ("output", "attribution", "relevance")}
    recording = Recording.from_counts(active, tokens, TAGS, activation=sums(), hidden=sums(), **more)
    frequent = (torch.rand(L, 5, K, generator=generator) * tokens).long()
    recording = Recording(recording.languages, tokens, {**recording.sums, f"{EXPERTS}0.1": frequent})
    vectors = torch.rand(K, 6, L * N, generator=generator)
    samples = ng.Samples.from_vectors(vectors, TAGS, layers=L)
    labels = torch.randint(0, 5, (L, N), generator=generator)
    rates = torch.rand(K, L, N, generator=generator, dtype=torch.float64)
    return Evidence(recording, samples, labels, rates, draw)


def turned(given, order):
    tags = [TAGS[i] for i in order]
    assert given.samples is not None and given.rates is not None
    return Evidence(
        given.recording.select(tags), given.samples.select(tags), given.labels, given.rates[list(order)], given.seed
    )


@settings(max_examples=30)
@given(st.integers(0, 1000), st.permutations(range(K)))
def test_every_method_is_the_same_in_any_order_of_languages(seed, order):
    given = evidence(seed)
    for method in RANKINGS:
        straight = select_top(rank(method, given), tuple(TAGS), 0.1)
        other = turned(given, order)
        assert select_top(rank(method, other), other.recording.languages, 0.1) == straight.select(
            [TAGS[i] for i in order]
        )


def test_every_method_takes_as_many_as_it_is_told():
    for method in RANKINGS:
        sizes = select_top(rank(method, evidence()), tuple(TAGS), 0.1).sizes().values()
        if method in ("lape", "lave", "pv"):  # which have neurons that can be no language's
            assert 0 < max(sizes) <= round(0.1 * L * N)
        else:
            assert set(sizes) == {round(0.1 * L * N)}


def test_a_larger_budget_holds_the_smaller():
    for method in RANKINGS:
        scores = rank(method, evidence())
        small, large = (select_top(scores, tuple(TAGS), share).mask for share in (0.05, 0.2))
        assert not bool((small & ~large).any())


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_rankings_agree_with_the_methods_themselves():
    given = evidence(3)
    recording = given.recording
    for method in (ng.identify.lape, ng.identify.lave):
        mine = method(recording, top_fraction=0.2, activity_quantile=0.6)
        name = "active" if method is ng.identify.lape else "activation"
        from neuroglot.identify.lape import _by_entropy

        scores = _by_entropy(recording.mean(name).clamp_min(0), 0.6)
        for k, tag in enumerate(TAGS):  # a language's neurons are those it would take first
            chosen = mine[tag]
            if bool(chosen.any()):
                assert float(scores[k][chosen].min()) >= float(scores[k][~chosen].max())
    assert given.samples is not None
    regions = ng.identify.key_regions(given.samples, threshold=1.0)
    scores = rank("regions", given)
    assert torch.equal(regions.mask, scores > 1.0)
    assert torch.equal(
        ng.identify.margin(recording, top_fraction=0.1).mask, select_top(scores_of(recording), tuple(TAGS), 0.1).mask
    )


def scores_of(recording):
    scores = margins(recording)
    return torch.where(scores > 0, scores, -torch.inf)


def test_experts_come_whole():
    given = evidence(5)
    assert given.labels is not None
    scores = rank("experts", given)
    frequency = ng.experts.frequencies(given.recording)
    for k in range(K):
        layer, expert = divmod(int(frequency[k].argmax()), 5)
        first = scores[k] == scores[k].max()
        assert torch.equal(first[layer].nonzero().flatten(), (given.labels[layer] == expert).nonzero().flatten())


def test_random_depends_on_the_seed():
    assert not torch.equal(rank("random", evidence(0, 0)), rank("random", evidence(0, 1)))


def test_what_was_not_measured_is_asked_for():
    bare = Evidence(evidence().recording)
    for method, word in (("regions", "parallel"), ("pv", "tune"), ("nothing", "choose among")):
        with pytest.raises(ng.NeuroglotError, match=word):
            rank(method, bare)
    with pytest.raises(ng.NeuroglotError, match="partition"):
        rank("experts", bare)
    with pytest.raises(ng.NeuroglotError, match="above 0"):
        select_top(rank("lap", bare), tuple(TAGS), 0)


# --- the margin -------------------------------------------------------------------------------------------------------


def recording_of(active, tokens, hidden=None):
    active = torch.tensor(active)
    languages = ["en", "fr", "ru"][: len(tokens)]
    hidden = active / torch.tensor(tokens) if hidden is None else torch.tensor(hidden)  # means
    return Recording.from_counts(active, tokens, languages, hidden=hidden * torch.tensor(tokens))


def test_margin_by_loops():
    from scipy.stats import binomtest

    given = evidence(7).recording
    scores, p, n = margins(given), given.active.tolist(), given.tokens.tolist()
    size = given.mean("hidden").abs()
    little = 0.02 / N
    certain = 0
    for i in range(L):
        share = (size[i] / size[i].sum(0)).tolist()
        for j in range(N):
            ends = [binomtest(p[i][j][k], n[k]).proportion_ci(0.95, "wilson") for k in range(K)]
            for k in range(K):
                apart = ends[k].low - max(ends[o].high for o in range(K) if o != k)
                ratio = math.log((share[j][k] + little) / (max(share[j][o] for o in range(K) if o != k) + little))
                expected = ratio if apart > 0 else -math.log1p(1 / little) + apart
                assert float(scores[k, i, j]) == pytest.approx(expected, abs=1e-6)
                certain += apart > 0
    assert certain > 5  # both cases were met


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_a_neuron_of_two_languages_of_a_script_is_nobodys():
    """LAPE gives (900, 900, 0) to both; the margin looks at the next language only."""
    recording = recording_of([[[900, 900, 0], [900, 300, 0], [500, 480, 490]]], [1000, 1000, 1000])
    chosen = ng.identify.margin(recording, top_fraction=1.0)
    assert chosen["en"].tolist() == [[False, True, False]] and not chosen["fr"].any()
    lape = ng.identify.lape(recording, top_fraction=1.0, activity_quantile=0.6)
    assert bool(lape["en"][0, 0]) and bool(lape["fr"][0, 0])


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_little_text_leaves_doubt():
    shares = [[[0.7, 0.4, 0.4], [0.4, 0.6, 0.7]]]
    few, many = [[[7, 4, 4], [4, 6, 7]]], [[[700, 400, 400], [400, 600, 700]]]
    assert not ng.identify.margin(recording_of(few, [10] * 3, shares), top_fraction=1.0).union().any()
    found = ng.identify.margin(recording_of(many, [1000] * 3, shares), top_fraction=1.0)
    assert found["en"].tolist() == [[True, False]] and found["ru"].tolist() == [[False, True]]
    # what is in doubt comes after all that is not
    scores = margins(recording_of([[[7, 4, 4], [10, 0, 0]]], [10] * 3, [[[9.0, 0, 0], [1.0, 1.0, 1.0]]]))
    assert float(scores[0, 0, 0]) < float(scores[0, 0, 1:].min())


def test_what_is_written_for_one_language_comes_first_whatever_its_sign_and_unit():
    active = [[[900, 100, 100]] * 3]
    hidden = [[[1.0, 0.5, 0.2], [-1.0, 0.1, 0.2], [5.0, 5.0, 5.0]]]
    scores = margins(recording_of(active, [1000] * 3, hidden))
    assert scores[0, 0].argsort(descending=True).tolist() == [1, 0, 2]
    # the unit of a layer in a language does not matter: only shares of its writing do
    again = margins(recording_of(active, [1000] * 3, [[[a * 10, b * 3, c] for a, b, c in hidden[0]]]))
    assert torch.allclose(scores, again)
    # next to nothing against nothing is no large ratio
    tiny_ones = margins(recording_of(active, [1000] * 3, [[[1e-6, 0, 0], [1.0, 0.1, 0.2], [5.0, 5.0, 5.0]]]))
    assert float(tiny_ones[0, 0, 0]) < 1e-2


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_a_neuron_belongs_to_one_language_at_most():
    chosen = ng.identify.margin(evidence(2).recording, top_fraction=0.5).mask
    assert int(chosen.sum(0).max()) == 1


def test_margin_refuses():
    one = recording_of([[[5]]], [10])
    with pytest.raises(ng.NeuroglotError, match="only en"):
        ng.identify.margin(one)
    two = Recording.from_counts(torch.ones(1, 2, 2), [3, 3], ["en", "fr"])
    with pytest.raises(ng.NeuroglotError, match="hidden"):
        ng.identify.margin(two)
    with pytest.raises(ng.NeuroglotError, match="top_fraction"):
        ng.identify.margin(recording_of([[[5, 4]]], [10, 10]), top_fraction=0)
    with pytest.warns(ng.NeuroglotWarning, match="fewer than"):
        ng.identify.margin(recording_of([[[5, 5]]], [10, 10]), top_fraction=1.0)
