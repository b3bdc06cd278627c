"""The surgeon's order against brute force, and one budget over all layers."""

import pytest
import torch

import neuroglot as ng
from neuroglot.artifacts.moments import Moments
from neuroglot.pruning.compensation import loss, refitted
from neuroglot.pruning.saliences import Order, keep_within, removal_order


@pytest.fixture(scope="module")
def layer():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    return torch.randn(6, 20, generator=generator), Moments(hidden.mean(0), hidden.T @ hidden / 400, 400)


def refit_loss(down, moments, gone):
    keep = torch.ones(down.shape[1], dtype=torch.bool)
    keep[gone] = False
    whole = torch.zeros_like(down)
    whole[:, keep] = refitted(down, moments, keep, intercept=False, ridge=0)[0]
    return loss(down, moments, whole)


@pytest.mark.parametrize("at_once", [1, 4])
def test_losses_are_those_of_the_refitted_layer(layer, at_once):
    down, moments = layer
    order = removal_order(down, moments, at_once=at_once, ridge=1e-7)
    energy = loss(down, moments, torch.zeros_like(down))
    assert len(set(order.removed.tolist())) == len(order.removed) == 18
    for count in range(at_once, 18, at_once):
        wanted = refit_loss(down, moments, order.removed[:count]) / energy
        assert float(order.losses[count - 1]) == pytest.approx(wanted, rel=0.02, abs=1e-5)
    assert bool((order.losses.diff() >= 0).all())


def test_every_step_is_the_cheapest_one(layer):
    down, moments = layer
    order = removal_order(down, moments, at_once=1, ridge=1e-7)
    for count in range(5):
        gone = order.removed[:count].tolist()
        left = [j for j in range(20) if j not in gone]
        costs = {j: refit_loss(down, moments, [*gone, j]) for j in left}
        assert costs[int(order.removed[count])] == pytest.approx(min(costs.values()), rel=1e-3)


def test_neurons_in_another_order_go_in_the_same_one(layer):
    down, moments = layer
    turned = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    again = removal_order(down[:, turned], Moments(moments.mean[turned], moments.second[turned][:, turned], 400))
    assert set(turned[again.removed].tolist()) == set(removal_order(down, moments).removed.tolist())


def test_one_budget_takes_where_it_costs_least():
    cheap = Order(4, torch.tensor([3, 1, 0]), torch.tensor([0.0, 0.1, 0.3]))
    dear = Order(3, torch.tensor([2, 0]), torch.tensor([0.15, 0.9]))
    keep = keep_within([cheap, dear], 4)
    assert keep.tolist() == [[True, False, True, False], [True, True, False, False]]
    assert keep_within([cheap, dear], 7).sum() == 7
    assert cheap.places().tolist() == [2, 1, 4, 0]  # the third stays
    for count in (0, 1, 8):
        with pytest.raises(ng.NeuroglotError, match="2 to 7 neurons can be kept"):
            keep_within([cheap, dear], count)


def test_a_neuron_that_others_say_goes_first():
    hidden = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    hidden[:, 4] = hidden[:, 0] + hidden[:, 1]
    down = torch.eye(5) * torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0])  # by magnitude the last to go
    order = removal_order(down, Moments(hidden.mean(0), hidden.T @ hidden / 300, 300), at_once=1, ridge=1e-6)
    assert int(order.removed[0]) in {0, 1, 4}
    assert float(order.losses[0]) < 1e-4
