"""Intervals, tests and rankings, beside plain loops and SciPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.stats import (
    bootstrap_weights,
    contrast,
    interval,
    linkage,
    mcnemar,
    mean_interval,
    paired,
    spearman,
    wilson,
)

D = torch.float64


def test_wilson_has_its_known_values():
    low, high = (end.tolist() for end in wilson(torch.tensor([5, 0, 10, 0]), torch.tensor([10, 10, 10, 0])))
    assert low == pytest.approx([0.2366, 0, 0.7225, 0], abs=1e-4)
    assert high == pytest.approx([0.7634, 0.2775, 1, 1], abs=1e-4)
    assert (low[3], high[3]) == (0, 1)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_is_scipys(total, share):
    from scipy.stats import binomtest

    count = round(share * total)
    expected = binomtest(count, total).proportion_ci(0.95, "wilson")
    low, high = wilson(torch.tensor(count), torch.tensor(total))
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_wilson_takes_neurons_by_languages_at_once():
    count, total = (
        torch.randint(0, 50, (2, 5, 3), generator=torch.Generator().manual_seed(0)),
        torch.tensor([50, 60, 70]),
    )
    low, high = wilson(count, total)
    assert low.dtype == high.dtype == D
    for place in np.ndindex(2, 5, 3):
        one = wilson(count[place], total[place[-1]])
        assert (low[place], high[place]) == one


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=60), st.sampled_from([0.5, 0.9, 0.95]))
def test_an_interval_is_numpys_quantiles(values, level):
    low, high = interval(torch.tensor([*values, math.nan], dtype=D), level)
    expected = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    assert (low, high) == pytest.approx(tuple(expected), abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60))
def test_the_nearest_interval_ends_at_draws_even_infinite_ones(values):
    drawn = sorted([*values, math.inf])
    low, high = interval(torch.tensor(drawn, dtype=D), interpolation="nearest")
    assert low in drawn and high in drawn and low <= high
    assert high == math.inf or len(drawn) > 20


@given(st.lists(st.lists(st.floats(-9, 9), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_interval_of_a_mean_is_that_of_drawn_blocks(cells):
    low, high = mean_interval(torch.tensor(cells, dtype=D), draws=300)
    weights = bootstrap_weights(3, 300, 0)[1:].numpy() / 3
    for values, *ends in zip(cells, low.tolist(), high.tolist(), strict=True):
        expected = np.quantile(weights @ values, (0.025, 0.975), method="nearest")
        assert ends == pytest.approx(expected, abs=1e-9)


def test_the_interval_of_one_block_is_not_known_and_of_an_infinite_one_not_hidden():
    low, high = mean_interval(torch.tensor([[0.5], [7.0]], dtype=D))
    assert low.isnan().all() and high.isnan().all()
    low, high = mean_interval(torch.tensor([1.0, 2.0, math.inf], dtype=D))
    assert 1 <= float(low) <= 2 and float(high) == math.inf
    with pytest.raises(ng.NeuroglotError, match="there is none"):
        mean_interval(torch.zeros(2, 0, dtype=D))


def test_a_contrast_is_every_permutation_where_they_can_be_counted():
    first, second = [1.0, 2.5, 4.0], [0.0, 0.5, 1.5, 2.0]
    found = contrast(first, second)
    together, size = first + second, len(first)
    apart = []
    for chosen in itertools.combinations(range(len(together)), size):
        one = [together[i] for i in chosen]
        two = [value for i, value in enumerate(together) if i not in chosen]
        apart.append(sum(one) / len(one) - sum(two) / len(two))
    more = sum(value >= found.difference - 1e-9 for value in apart) / len(apart)
    less = sum(value <= found.difference + 1e-9 for value in apart) / len(apart)
    assert found.difference == pytest.approx(1.5) and found.p == pytest.approx(min(1.0, 2 * min(more, less)))
    assert found.low <= found.difference <= found.high
    signs = contrast([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0], matched=True)
    assert signs.p == pytest.approx(2 / 2**4)


def test_contrasts_find_nothing_where_nothing_is_and_know_nothing_of_one_block():
    draws = np.random.default_rng(0)
    values = [contrast(draws.normal(size=8), draws.normal(size=9), resamples=299, seed=i).p for i in range(60)]
    assert sum(p < 0.05 for p in values) <= 8
    assert contrast(draws.normal(3, 1, 20), draws.normal(0, 1, 20), resamples=999).p < 0.01
    one = contrast([5.0], [1.0, 2.0])
    assert one.difference == 3.5 and all(math.isnan(value) for value in (one.low, one.high, one.p))
    assert math.isnan(paired([0.0], [1.0]).low)
    for bad, message in (([math.inf, 1.0], "finite"), ([], "finite")):
        with pytest.raises(ng.NeuroglotError, match=message):
            contrast(bad, [1.0, 2.0])
    with pytest.raises(ng.NeuroglotError, match="same blocks, not of 2 and 3"):
        contrast([1.0, 2.0], [1.0, 2.0, 3.0], matched=True)


def test_an_interval_of_nothing_and_of_no_level():
    assert all(math.isnan(end) for end in interval(torch.tensor([math.nan], dtype=D)))
    assert all(math.isnan(end) for end in interval(torch.tensor([1.5], dtype=D)))  # one draw has no spread
    with pytest.raises(ng.NeuroglotError, match="level"):
        interval(torch.ones(3, dtype=D), 1.0)


def test_bootstrap_weights_count_draws_with_replacement():
    weights = bootstrap_weights(9, 40, seed=2)
    assert weights.shape == (41, 9)
    assert (weights[0] == 1).all() and (weights.sum(1) == 9).all() and (weights[1:] == 0).any()
    assert torch.equal(weights, bootstrap_weights(9, 40, seed=2))
    with pytest.raises(ng.NeuroglotError, match="draws"):
        bootstrap_weights(9, -1, seed=0)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_by_binomial_coefficients(gained, lost):
    total = gained + lost
    tail = sum(math.comb(total, i) for i in range(min(gained, lost) + 1))
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail / 2**total))


def test_spearman_looks_at_the_order_only():
    x = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=D)
    assert spearman(x, x.exp()) == pytest.approx(1) and spearman(x, -(x**3)) == pytest.approx(-1)
    assert math.isnan(spearman(x, torch.ones(20, dtype=D))) and math.isnan(spearman(x[:0], x[:0]))


def by_loops(distance):
    """UPGMA as its definition says: the mean distance of all pairs of two clusters."""
    clusters = {i: [i] for i in range(len(distance))}
    merges = []
    while len(clusters) > 1:
        pairs = [(np.mean([float(distance[x, y]) for x in clusters[a] for y in clusters[b]]), a, b)
                 for a in clusters for b in clusters if min(clusters[a]) < min(clusters[b])]  # fmt: skip
        apart, a, b = min(pairs)
        merged = clusters.pop(a) + clusters.pop(b)
        merges.append((a, b, pytest.approx(apart), len(merged)))
        clusters[len(distance) + len(merges) - 1] = merged
    return merges


@pytest.mark.parametrize("size", [1, 2, 3, 8, 15])
@pytest.mark.parametrize("seed", range(3))
def test_linkage_by_loops(size, seed):
    x = torch.rand(size, 4, generator=torch.Generator().manual_seed(seed), dtype=D)
    distance = torch.cdist(x, x)
    assert linkage(distance) == by_loops(distance)


def test_linkage_of_equal_and_unknown_distances_is_a_whole_tree():
    alike = torch.ones(4, 4, dtype=D) - torch.eye(4, dtype=D)
    merges = linkage(alike)
    assert [apart for _, _, apart, _ in merges] == [1, 1, 1] and merges[-1][3] == 4
    alike[0, 3] = alike[3, 0] = math.nan
    assert linkage(alike)[-1][3] == 4
