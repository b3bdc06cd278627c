"""Rows of a model over two devices: each layer's keys, values and interventions are where the layer is.

The second device is `meta`, which every machine has: it knows shapes and refuses what lies elsewhere.
"""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.rows import RowEdits
from neuroglot.generation.choice import Choice
from neuroglot.generation.prompts import Row
from neuroglot.generation.state import Rows
from neuroglot.models.architecture.devices import SharedCopies
from neuroglot.models.model import Model

HERE, THERE = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def split(monkeypatch):
    """All but the first layer on the other device, whose logits come back as zeros."""
    to = torch.Tensor.to

    def brought(self, *given, **named):
        back = self.device == THERE and given and given[0] in (HERE, "cpu")
        return torch.zeros(self.shape, dtype=self.dtype) if back else to(self, *given, **named)

    monkeypatch.setattr(torch.Tensor, "to", brought)
    monkeypatch.setattr(Model, "device", HERE)
    model, copies = tiny.model(), SharedCopies(THERE)
    assert model.stream_width  # found by running it
    network = model.network
    for part in (*(ffn.layer for ffn in model.ffns[1:]), network.model.norm, network.lm_head):
        for module in part.to(THERE).modules():
            module.register_forward_pre_hook(copies, with_kwargs=True)
    return model


@torch.inference_mode()
def test_each_layer_has_its_own_on_its_device(split):
    some = torch.ones(split.layers, split.neurons, dtype=torch.bool)
    stream = torch.ones(split.layers, split.stream_width, dtype=torch.bool)
    recipes = [
        (),
        (ng.Deactivate(some), ng.Raise(some, 0.5, site="hidden")),
        (ng.Add(stream, 1.0, site="residual", when="generated"),),
    ]
    slots = torch.arange(3)
    edits = RowEdits.of_parts(split, recipes, 3)
    for each in edits:
        each.assign(slots, slots)
    state = Rows(split, Choice(repetition_penalty=1.2), [3], 3, 16, 4)
    with edits[0].applied(3):
        state.read(slots, [Row((1, 2, 3)), Row((1, 2)), Row((5,))])
    with edits[1].applied(3):
        assert state.step(3, 16).device == HERE
    state.move(slots[2:], slots[:1])
    edits[1].move(slots[2:], slots[:1])
    assert [layer.keys.device for layer in state.cache.layers] == [HERE] + [THERE] * (split.layers - 1)
    assert state.cache.bytes_on(THERE) == (split.layers - 1) * state.cache.bytes_on(HERE) > 0
    for layer in range(split.layers):
        for site, width in (("activation", split.neurons), ("hidden", split.neurons), ("residual", split.stream_width)):
            table = edits[1].table(layer, site, 3)
            assert table.device == (THERE if layer else HERE)
            assert table.shape[1:] == (3, width)
