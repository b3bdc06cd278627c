"""Layers of different widths in one table: nothing counts, ranks, draws or lists what lies beyond a layer's width.

Everything is compared with a plain loop over a ragged list, which has no beyond.
"""

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.widths import padded
from neuroglot.evaluate.ablation.perturbation import random_neurons
from neuroglot.experts.keep import salience
from neuroglot.experts.overlap import by_expert, in_experts
from neuroglot.identify.margin import LITTLE
from neuroglot.identify.overlap import compare
from neuroglot.identify.parameter_variation import least_varied
from neuroglot.identify.ranking import choose, rank
from neuroglot.identify.registry import find, names
from neuroglot.identify.selection import Evidence
from neuroglot.stats import wilson

pytestmark = pytest.mark.filterwarnings("ignore::neuroglot.errors.NeuroglotWarning")

TAGS, TOKENS, SAMPLES, EXPERTS = ("en", "fr", "ru"), 50, 4, 2
WIDTHS = st.lists(st.integers(EXPERTS, 9), min_size=2, max_size=4)


def ragged(widths, seed, *rest, high=TOKENS):
    """A random table of every layer, without a beyond."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, high + 1, (width, *rest), generator=draw).double() for width in widths]


def evidence(widths, seed):
    """What every method needs, in tables of random numbers."""
    wanted = [statistic for method in names() for statistic in find(method).statistics]
    kept = dict.fromkeys(["active", "activation", "hidden", *wanted])
    made = {name: padded(ragged(widths, seed + i, len(TAGS))) for i, name in enumerate(kept)}
    made["experts@0.5"] = torch.stack(ragged([EXPERTS] * len(widths), seed + 50, len(TAGS)))
    tokens, uneven = torch.full((len(TAGS),), TOKENS), tuple(widths) if len(set(widths)) > 1 else None
    recording = ng.Recording(TAGS, tokens, {**made, "active": made["active"].long()}, uneven=uneven)
    vectors = [values.movedim(0, -1) + 1 for values in ragged(widths, seed + 60, len(TAGS), SAMPLES)]
    equal = [torch.nn.functional.pad(each, (0, max(widths) - each.shape[-1])) for each in vectors]
    samples = ng.Samples.from_vectors(torch.cat(equal, -1), TAGS, layers=len(widths))
    labels = padded([torch.arange(width) % EXPERTS + 1 for width in widths]) - 1
    rates = padded(ragged(widths, seed + 70, len(TAGS))).movedim(-1, 0)
    return Evidence(recording, replace(samples, uneven=uneven), labels, rates)


def places(scores_of, widths):
    """Every neuron, as (layer, number, its score)."""
    return [(i, j, scores_of(i, j)) for i, width in enumerate(widths) for j in range(width)]


def entropy(values):
    shares = [value / sum(values) for value in sorted(values)]
    return round(-sum(share * math.log(share) for share in shares if share), 12)


def highest(found, count):
    """The places with the highest scores, of equal ones the first; never one without a score."""
    some = [each for each in found if each[2] > -math.inf]
    return {(i, j) for i, j, _ in sorted(some, key=lambda each: -each[2])[:count]}


def of(mask):
    return {tuple(place) for place in mask.nonzero().tolist()}


@settings(max_examples=25)
@given(WIDTHS, st.integers(0, 1000))
def test_entropies_quantiles_and_budgets_are_those_of_the_neurons_that_are_there(widths, seed):
    given_, total = evidence(widths, seed), sum(widths)
    for method, name in (("lape", "active"), ("lave", "activation")):
        values = [layer / TOKENS for layer in ragged(widths, seed + ["active", "activation"].index(name), len(TAGS))]
        flat = sorted(value for layer in values for row in layer.tolist() for value in row)
        limit = flat[round(0.6 * len(flat)) - 1]
        above = {(i, j): [p > limit for p in values[i][j].tolist()] for i, j, _ in places(lambda i, j: 0, widths)}
        scores = places(lambda i, j: -entropy(values[i][j].tolist()) if any(above[i, j]) else -math.inf, widths)  # noqa: B023
        kept = highest(scores, round(0.3 * total))
        found = choose(method, given_, top_fraction=0.3, activity_quantile=0.6)
        for k, tag in enumerate(TAGS):
            assert of(found[tag]) == {place for place in kept if above[place][k]}
    active = ragged(widths, seed, len(TAGS))
    found = choose("lap", given_, threshold=0.5)
    for k, tag in enumerate(TAGS):
        shares = places(lambda i, j: active[i][j, k] / TOKENS, widths)  # noqa: B023
        assert of(found[tag]) == {(i, j) for i, j, share in shares if share > 0.5}


@settings(max_examples=25)
@given(WIDTHS, st.integers(0, 1000))
def test_margins_regions_and_variation_are_those_of_a_plain_loop(widths, seed):
    given_, total = evidence(widths, seed), sum(widths)
    active, hidden = ragged(widths, seed, len(TAGS)), ragged(widths, seed + 2, len(TAGS))
    scores = rank("margin", given_)
    vectors = [values.movedim(0, -1) + 1 for values in ragged(widths, seed + 60, len(TAGS), SAMPLES)]
    norms = torch.cat(vectors, -1).norm(dim=-1)
    regions = ng.identify.key_regions(given_.samples, threshold=1.0) if spread(vectors) else None
    for k, tag in enumerate(TAGS):
        for i, j, _ in places(lambda i, j: 0, widths):
            ends = wilson(active[i][j].long(), torch.full((3,), TOKENS))
            rest = [n for n in range(3) if n != k]
            if ends[0][k] > max(ends[1][n] for n in rest):
                means = hidden[i].sum(0).clamp_min(torch.finfo(torch.float64).tiny)
                share, little = hidden[i][j] / means, LITTLE / widths[i]
                want = math.log((share[k] + little) / (max(share[n] for n in rest) + little))
                assert float(scores[k, i, j]) == pytest.approx(want, abs=1e-9)
            if regions is not None:
                a = vectors[i][:, :, j] / norms
                c = (a.sum(1) ** 2 - a.square().sum(1)) / 2
                z = (c - c.mean()) / c.std(correction=0)
                assert bool(regions[tag][i, j]) == bool(z[k] > 1.0) or abs(float(z[k]) - 1) < 1e-6
    rates = ragged(widths, seed + 70, len(TAGS))
    less = {(i, j): [max(r) - v for v in r] for i, j, r in places(lambda i, j: rates[i][j].tolist(), widths)}
    spreads = places(lambda i, j: -entropy(less[i, j]) if any(less[i, j]) else -math.inf, widths)
    kept = highest(spreads, round(0.4 * total))
    found = choose("pv", given_, top_fraction=0.4)
    for k, tag in enumerate(TAGS):
        assert of(found[tag]) == {place for place in kept if less[place][k] * 3 > sum(less[place])}


def spread(vectors):
    return all(bool((each.amax(0) > each.amin(0)).any()) for each in vectors)


@settings(max_examples=15)
@given(WIDTHS, st.integers(0, 1000))
def test_no_method_ranks_or_chooses_what_is_not_there(widths, seed):
    given_ = evidence(widths, seed)
    beyond = ~given_.recording.exists
    for method in names():
        assert bool((rank(method, given_)[:, beyond] == -math.inf).all()), method
        how = {"threshold": 1.0} if method == "regions" else {}
        how |= {"top_fraction": 1.0} if "top_fraction" in find(method).defaults else {}
        found = choose(method, given_, **how)
        assert not bool(found.mask[:, beyond].any()) and found.widths == tuple(widths), method


@settings(max_examples=25)
@given(WIDTHS, st.integers(0, 1000))
def test_random_neurons_are_drawn_among_those_that_are_there(widths, seed):
    recording, total = evidence(widths, seed).recording, sum(widths)
    drawn = ng.identify.random(recording, top_fraction=0.5, seed=seed)
    assert set(drawn.sizes().values()) == {round(0.5 * total)} and drawn.total == total
    for like in (drawn, ng.NeuronSet(drawn.mask, TAGS).of_widths(widths)):
        for chosen in (random_neurons(like, total, seed), ng.identify.random(like, seed=seed)["en"]):
            assert not bool(chosen[~recording.exists].any())
        assert int(random_neurons(like, total, seed).sum()) == total


@settings(max_examples=25)
@given(WIDTHS, st.integers(0, 1000))
def test_experts_hold_neurons_that_are_there(widths, seed):
    given_ = evidence(widths, seed)
    partition = Partition(given_.labels, EXPERTS)
    assert partition.widths.tolist() == widths and len(partition.frame()) == sum(widths)
    active = ragged(widths, seed, len(TAGS))
    neurons = ng.NeuronSet(given_.recording.active.movedim(-1, 0) > 25, TAGS).of_widths(widths)
    held = by_expert(neurons, partition.labels)
    chosen = torch.rand(3, len(widths), EXPERTS, generator=torch.Generator().manual_seed(seed)) < 0.5
    places_ = in_experts(neurons, partition.labels, chosen)
    for k, tag in enumerate(TAGS):
        means = salience(given_.recording, partition, tag, kind="active")
        chance = 0.0
        for i, width in enumerate(widths):
            mine = [[j for j in range(width) if j % EXPERTS == e] for e in range(EXPERTS)]
            for e, some in enumerate(mine):
                assert held[k, i, e] == sum(active[i][j, k] > 25 for j in some)
                assert float(means[i, e]) == pytest.approx(float(active[i][some, k].mean()) / TOKENS)
            share = sum(len(some) for e, some in enumerate(mine) if chosen[k, i, e]) / width
            chance += share * float((active[i][:, k] > 25).sum())
        assert places_["by_chance"][tag] == pytest.approx(chance)
    one = torch.zeros(len(widths), EXPERTS, dtype=torch.bool)
    assert not bool(partition.neurons(~one)[~given_.recording.exists].any())


def test_no_table_has_a_row_of_a_neuron_that_is_not_there():
    counts = torch.zeros(2, 3, 2, dtype=torch.int64)
    counts[0], counts[1, 0] = 2, 1
    recording = ng.Recording.from_counts(counts, [4, 4], ["en", "fr"], widths=(3, 1))
    table = recording.frame()
    assert len(table) == 2 * (3 + 1)
    assert set(zip(table["layer"], table["neuron"], strict=True)) == {(1, 0), (1, 1), (1, 2), (2, 0)}
    mask = recording.exists[None].expand(2, -1, -1)
    every = ng.NeuronSet(mask, ["en", "fr"]).of_widths([3, 1])
    assert compare(every, every)["by_chance"].tolist() == [4.0, 4.0]  # all of them, by chance too


def test_a_share_of_what_was_tuned_counts_neurons_that_are_there():
    rates = torch.rand(2, 2, 4, dtype=torch.float64)
    rates[:, 1, 1:] = 0  # the second layer has one
    assert int(least_varied(rates, 0.4, 5).any(0).sum()) == 2
    assert int(least_varied(rates, 0.4).any(0).sum()) == 3


def test_what_holds_something_beyond_is_refused():
    ones = torch.ones(2, 3, 1)
    for make, words in (
        (lambda: ng.NeuronSet(ones.movedim(-1, 0) > 0, ["en"]).of_widths([3, 2]), "hold neuron 2 of layer 2"),
        (lambda: ng.NeuronSet(ones.movedim(-1, 0) > 0, ["en"]).of_widths([3, 4]), "2 × 3, not of 2 layers of at"),
        (lambda: ng.Recording.from_counts(ones, [4], ["en"], widths=[3, 2]), "widths do not fit: it holds"),
        (lambda: ng.Samples.from_vectors(torch.ones(1, 2, 6), ["en"], layers=2, widths=[3, 2]), "widths do not fit"),
    ):
        with pytest.raises(ng.NeuroglotError, match=re.escape(words)):
            make()


def test_samples_keep_their_widths(tmp_path):
    samples = evidence([3, 5], 0).samples
    samples.save(tmp_path / "s")
    again = ng.Samples.load(tmp_path / "s")
    assert again.widths == (3, 5) and ng.identify.key_regions(again, threshold=1.0).widths == (3, 5)
