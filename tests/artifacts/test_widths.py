"""Layers of different widths in one table: nothing counts or lists what lies beyond a layer's width."""

from dataclasses import replace

import torch

import neuroglot as ng
from neuroglot.identify.overlap import compare
from neuroglot.identify.parameter_variation import least_varied


def test_no_table_has_a_row_of_a_neuron_that_is_not_there():
    counts = torch.zeros(2, 3, 2, dtype=torch.int64)
    counts[0], counts[1, 0] = 2, 1
    recording = replace(ng.Recording.from_counts(counts, [4, 4], ["en", "fr"]), uneven=(3, 1))
    table = recording.frame()
    assert len(table) == 2 * (3 + 1)
    assert set(zip(table["layer"], table["neuron"], strict=True)) == {(1, 0), (1, 1), (1, 2), (2, 0)}
    mask = recording.exists[None].expand(2, -1, -1)
    every = ng.NeuronSet(mask, ["en", "fr"], {"widths": [3, 1]})
    assert compare(every, every)["by_chance"].tolist() == [4.0, 4.0]  # all of them, by chance too


def test_a_share_of_what_was_tuned_counts_neurons_that_are_there():
    rates = torch.rand(2, 2, 4, dtype=torch.float64)
    rates[:, 1, 1:] = 0  # the second layer has one
    assert int(least_varied(rates, 0.4, 5).any(0).sum()) == 2
    assert int(least_varied(rates, 0.4).any(0).sum()) == 3
