"""Methods as rankings with equal budgets, and the activation margin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.identify import Evidence, margins, rank, take
from neuroglot.identify.ranking import RANKINGS
from neuroglot.recording import EXPERTS, Recording

TAGS = ["en", "zh", "fr", "es"]
L, N, K = 2, 30, 4


def evidence(seed=0, draw=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(50, 400, (K,), generator=generator)
    active = (torch.rand(L, N, K, generator=generator) * (tokens + 1)).long().minimum(tokens)

    def sums():
        return torch.rand(L, N, K, generator=generator, dtype=torch.float64) * tokens

    recording = Recording.from_counts(active, tokens, TAGS, activation=sums(), written=sums())
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
        straight = take(rank(method, given), tuple(TAGS), 0.1)
        other = turned(given, order)
        assert take(rank(method, other), other.recording.languages, 0.1) == straight.select([TAGS[i] for i in order])


def test_every_method_takes_as_many_as_it_is_told():
    for method in RANKINGS:
        sizes = take(rank(method, evidence()), tuple(TAGS), 0.1).sizes().values()
        if method in ("lape", "lave", "pv"):  # which have neurons that can be no language's
            assert 0 < max(sizes) <= round(0.1 * L * N)
        else:
            assert set(sizes) == {round(0.1 * L * N)}


def test_a_larger_budget_holds_the_smaller():
    for method in RANKINGS:
        scores = rank(method, evidence())
        small, large = (take(scores, tuple(TAGS), share).mask for share in (0.05, 0.2))
        assert not bool((small & ~large).any())


def test_rankings_agree_with_the_methods_themselves():
    given = evidence(3)
    recording = given.recording
    for method in (ng.identify.lape, ng.identify.lave):
        mine = method(recording, top_fraction=0.2, activity_quantile=0.6)
        name = "active" if method is ng.identify.lape else "activation"
        from neuroglot.identify.ranking import _by_entropy

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
        ng.identify.margin(recording, top_fraction=0.1).mask, take(scores_of(recording), tuple(TAGS), 0.1).mask
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
        take(rank("lap", bare), tuple(TAGS), 0)


# --- the margin -------------------------------------------------------------------------------------------------------


def recording_of(active, tokens, written=None):
    active = torch.tensor(active)
    languages = ["en", "fr", "ru"][: len(tokens)]
    written = torch.ones(active.shape) if written is None else torch.tensor(written)
    return Recording.from_counts(active, tokens, languages, written=written * torch.tensor(tokens))


def test_margin_by_loops():
    from scipy.stats import binomtest

    given = evidence(7).recording
    scores, p, n = margins(given), given.active.tolist(), given.tokens.tolist()
    written = given.mean("written")
    for i in range(L):
        for j in range(N):
            ends = [binomtest(p[i][j][k], n[k]).proportion_ci(0.95, "wilson") for k in range(K)]
            for k in range(K):
                apart = ends[k].low - max(ends[o].high for o in range(K) if o != k)
                share = float(written[i, j, k] / written[i, :, k].sum())
                expected = apart * share if apart > 0 else apart
                assert float(scores[k, i, j]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_margin_prefers_a_neuron_of_one_language_to_one_of_a_script():
    """LAPE's entropy is the same for (90, 90, 0) whatever the threshold; the margin gives such a neuron to nobody."""
    recording = recording_of([[[900, 900, 0], [900, 300, 0], [500, 480, 490]]], [1000, 1000, 1000])
    assert ng.identify.margin(recording, top_fraction=1.0)["en"].tolist() == [[False, True, False]]


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_little_text_leaves_doubt():
    few, many = ([[[9, 3, 3]]], [10, 10, 10]), ([[[900, 300, 300]]], [1000, 1000, 1000])
    assert not ng.identify.margin(recording_of([[[7, 4, 4]]], [10, 10, 10]), top_fraction=1.0).union().any()
    assert float(margins(recording_of(*many))[0, 0, 0]) > float(margins(recording_of(*few))[0, 0, 0])


def test_what_writes_more_comes_first():
    active = [[[900, 100, 100], [900, 100, 100]]]
    written = [[[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]]
    scores = margins(recording_of(active, [1000] * 3, written))
    assert float(scores[0, 0, 1]) == pytest.approx(3 * float(scores[0, 0, 0]))
    # the unit of a layer does not matter: only shares of its writing do
    again = margins(recording_of(active, [1000] * 3, [[[10.0] * 3, [30.0] * 3]]))
    assert torch.allclose(scores, again)


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")
def test_a_neuron_belongs_to_one_language_at_most():
    chosen = ng.identify.margin(evidence(2).recording, top_fraction=0.5).mask
    assert int(chosen.sum(0).max()) == 1


def test_margin_refuses():
    one = recording_of([[[5]]], [10])
    with pytest.raises(ng.NeuroglotError, match="only en"):
        ng.identify.margin(one)
    two = Recording.from_counts(torch.ones(1, 2, 2), [3, 3], ["en", "fr"])
    with pytest.raises(ng.NeuroglotError, match="written"):
        ng.identify.margin(two)
    with pytest.raises(ng.NeuroglotError, match="top_fraction"):
        ng.identify.margin(recording_of([[[5, 4]]], [10, 10]), top_fraction=0)
    with pytest.warns(ng.NeuroglotWarning, match="fewer than"):
        ng.identify.margin(recording_of([[[5, 5]]], [10, 10]), top_fraction=1.0)


def test_written_and_energy_by_hand():
    """The lengths of what neurons write, from the hidden values themselves."""
    import tiny

    from neuroglot.ffn import watch

    model = tiny.model("gpt2")
    text = tiny.corpus(12).select(["en"])
    seen = [[] for _ in model.ffns]
    with watch(model.ffns, lambda layer, activation, hidden: seen[layer].append(hidden.detach()[:, 1:].flatten(0, 1))):
        recording = ng.record(
            model, text, tokens=120, block=31, statistics=("written", "energy", "magnitude"), progress=False
        )
    for layer, ffn in enumerate(model.ffns):
        lengths = ffn.down_columns.double().norm(dim=0)
        values = torch.cat(seen[layer]).double().abs()
        assert torch.allclose(recording.sum("written")[layer, :, 0], (values * lengths).sum(0), rtol=1e-5)
        assert torch.allclose(recording.sum("energy")[layer, :, 0], ((values * lengths) ** 2).sum(0), rtol=1e-4)
