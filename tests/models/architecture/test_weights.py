"""Weights whose numbers are not what the model computes with are read nowhere."""

import pytest
import tiny
import torch
from torch import nn

import neuroglot as ng
from neuroglot.models.architecture.weights import is_readable


class Packed(nn.Parameter):
    """As a package's that quantises."""


@pytest.mark.parametrize(
    ("weight", "readable"),
    [
        (torch.zeros(2, 2), True),
        (nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16)), True),
        (torch.zeros(2, 2, device="meta"), False),
        (torch.zeros(2, 2, dtype=torch.int8), False),
        (torch.zeros(2, 2).to(torch.float8_e4m3fn), False),
        (Packed(torch.zeros(2, 2)), False),
    ],
)
def test_what_is_readable(weight, readable):
    assert is_readable(weight) is readable


def test_whatever_reads_weights_refuses_packed_ones(tmp_path):
    model = tiny.model()
    for ffn in model.ffns:
        ffn.down.weight = Packed(ffn.down.weight.detach())
    everything = torch.ones(model.layers, model.neurons, dtype=torch.bool)
    off = ~everything
    off[0, 0] = True
    for step in (
        lambda: ng.bake(model, off, tmp_path / "baked"),
        lambda: ng.prune(model, ~off, tmp_path / "pruned"),
        lambda: ng.record(model, tiny.corpus(), block=16, statistics=("active", "output"), progress=False),
    ):
        with pytest.raises(ng.NeuroglotError, match="quantised"):
            step()
    assert not any(tmp_path.iterdir())
    recording = ng.record(model, tiny.corpus(), block=16, progress=False)
    assert torch.equal(recording.active, ng.record(tiny.model(), tiny.corpus(), block=16, progress=False).active)
