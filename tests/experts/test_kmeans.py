"""Balanced k-means: sizes, determinism, and its optimum against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.experts import kmeans
from neuroglot.experts.kmeans import balanced_kmeans, inertia


def points(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(0, 5))
@settings(max_examples=60)
def test_sizes_differ_by_at_most_one(rows, clusters, width, seed):
    if clusters > rows:
        with pytest.raises(ng.NeuroglotError, match="cannot fill"):
            balanced_kmeans(points(rows, width), clusters, seed)
        return
    sizes = balanced_kmeans(points(rows, width, seed), clusters, seed).bincount(minlength=clusters)
    assert sizes.sum() == rows
    assert sizes.max() - sizes.min() <= 1


def every_labelling(rows, clusters):
    for labels in itertools.product(range(clusters), repeat=rows):
        sizes = torch.tensor(labels).bincount(minlength=clusters)
        if sizes.max() - sizes.min() <= 1:
            yield torch.tensor(labels)


@pytest.mark.parametrize(("rows", "clusters"), [(6, 2), (6, 3), (7, 3), (8, 2), (5, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_of_a_few_seeds_is_the_optimum(rows, clusters, seed):
    x = points(rows, 2, seed)
    best = min(inertia(x, labels) for labels in every_labelling(rows, clusters))
    found = [inertia(x, balanced_kmeans(x, clusters, s)) for s in range(8)]
    assert min(found) == pytest.approx(best)


@given(st.integers(2, 24), st.integers(2, 6), st.integers(0, 100))
@settings(max_examples=40)
def test_no_swap_and_no_move_to_a_smaller_cluster_helps(rows, clusters, seed):
    clusters = min(clusters, rows)
    x = points(rows, 3, seed)
    labels = balanced_kmeans(x, clusters, seed)
    reached = inertia(x, labels)
    sizes = labels.bincount(minlength=clusters)
    for i in range(rows):
        for j in range(i):
            swapped = labels.clone()
            swapped[i], swapped[j] = labels[j], labels[i]
            assert inertia(x, swapped) >= reached - 1e-4
        for c in range(clusters):
            if sizes[c] < sizes[labels[i]]:
                moved = labels.clone()
                moved[i] = c
                assert inertia(x, moved) >= reached - 1e-4


@pytest.mark.parametrize("size", [4, 5])
def test_finds_clusters_that_are_there(size):
    truth = torch.arange(12).repeat_interleave(size)
    centres = 10 * points(12, 16)
    x = centres[truth] + 0.1 * points(12 * size, 16, 1)
    shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    labels = balanced_kmeans(x[shuffle], 12)
    assert inertia(x[shuffle], labels) == pytest.approx(inertia(x, truth))


def test_one_seed_gives_one_result_and_shifts_change_nothing():
    x = points(60, 8)
    assert torch.equal(balanced_kmeans(x, 10, 3), balanced_kmeans(x, 10, 3))
    assert not torch.equal(balanced_kmeans(x, 10, 3), balanced_kmeans(x, 10, 4))
    assert torch.equal(balanced_kmeans(x + 7, 10, 3), balanced_kmeans(x, 10, 3))


def test_equal_rows_are_split_all_the_same():
    sizes = balanced_kmeans(torch.ones(20, 4), 6).bincount(minlength=6)
    assert sorted(sizes.tolist()) == [3, 3, 3, 3, 4, 4]


def prototypes(count, copies, noise):
    centres = points(count, 16).repeat_interleave(copies, 0)
    return centres + noise * points(len(centres), 16, 1)


@pytest.mark.parametrize("noise", [0.0, 1e-4])
@pytest.mark.parametrize("clusters", [7, 8, 256])
def test_ends_on_near_copies(noise, clusters):
    x = prototypes(8, 128, noise).float()
    labels = balanced_kmeans(x, clusters)
    sizes = labels.bincount(minlength=clusters)
    assert sizes.max() - sizes.min() <= 1
    if clusters % 8 == 0:  # each cluster can be copies of one prototype
        assert inertia(x, labels) <= 1.1 * noise**2 * x.numel() + 1e-6


@given(st.integers(2, 60), st.integers(2, 8), st.integers(1, 12), st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_labels_do_not_depend_on_threads_or_on_the_order_of_summation(rows, clusters, width, seed):
    x = points(rows, width, seed).float()
    before = torch.get_num_threads()
    labels = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            labels.append(balanced_kmeans(x, min(clusters, rows)))
    finally:
        torch.set_num_threads(before)
    reordered = x[:, torch.randperm(width, generator=torch.Generator().manual_seed(seed))]
    labels.append(balanced_kmeans(reordered, min(clusters, rows)))  # other orders of the same sums
    assert all(torch.equal(labels[0], each) for each in labels)


def test_threads_are_as_many_afterwards():
    before = torch.get_num_threads()
    balanced_kmeans(points(20, 3), 4)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
def test_the_unit_of_the_rows_changes_nothing(scale):
    x = points(64, 8).float()
    assert torch.equal(balanced_kmeans(x * 2.0 ** round(math.log2(scale)), 8), balanced_kmeans(x, 8))


def test_groups_of_clusters_are_assigned_apart(monkeypatch):
    monkeypatch.setattr(kmeans, "GROUP", 5)
    x = points(100, 6)
    labels = balanced_kmeans(x, 23)
    sizes = labels.bincount(minlength=23)
    assert sizes.max() - sizes.min() <= 1
    monkeypatch.undo()
    assert inertia(x, labels) == pytest.approx(inertia(x, balanced_kmeans(x, 23)), rel=0.15)


def test_half_precision_is_computed_in_float32():
    x = points(64, 8).bfloat16()
    assert torch.equal(balanced_kmeans(x, 8), balanced_kmeans(x.float(), 8))


def test_refuses_what_is_not_a_number():
    with pytest.raises(ng.NeuroglotError, match="not numbers"):
        balanced_kmeans(torch.tensor([[1.0], [float("nan")]]), 1)


def test_rows_and_frequencies_may_be_arrays():
    rows = np.random.default_rng(0).normal(size=(9, 3))
    assert torch.equal(balanced_kmeans(rows, 3), balanced_kmeans(torch.from_numpy(rows), 3))
    shares = np.random.default_rng(1).random((2, 3, 4))
    assert torch.equal(ng.experts.compare(shares).kl, ng.experts.compare(torch.from_numpy(shares)).kl)
