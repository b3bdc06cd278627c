"""Layers of fewer launches give what the model's own give, under interventions and hooks; the kernel is plain torch."""

import sys
from types import ModuleType

import pytest
import tiny
import torch
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.edit.rows import RowEdits
from neuroglot.generation.capture import reads_as_plain
from neuroglot.generation.fused_layers import FusedLayers


def gated(gate, up, kind, rows, activation=None, hidden=None):
    def edited(x, table):
        if table is None:
            return x
        each = x.view(rows, -1, x.shape[-1])
        changed = each * table[0][:, None] + table[1][:, None]
        return (torch.clamp(changed, table[2][:, None], table[3][:, None]) if len(table) == 4 else changed).view(
            x.shape
        )

    function = F.silu(gate) if kind == "silu" else F.gelu(gate, approximate="tanh")
    return edited(edited(function, activation) * up, hidden)


@pytest.fixture(autouse=True)
def plain_kernel(monkeypatch):
    module = ModuleType("neuroglot.generation.kernels")
    module.gated = gated
    module.norm = lambda states, weight, eps, more: F.rms_norm(states, weight.shape, weight + more, eps)
    monkeypatch.setitem(sys.modules, "neuroglot.generation.kernels", module)


def masks(model):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(model.layers, model.neurons, generator=generator) < 0.3 for _ in range(3)]


@pytest.mark.parametrize(("family", "plain"), [("llama", 3), ("qwen2", 3), ("gemma3_text", 0), ("phi3", 0), ("opt", 0)])
def test_logits_are_those_of_the_model(family, plain):
    model = tiny.model(family)
    ids = torch.randint(5, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    one, two, three = masks(model)
    recipes = [
        (ng.Deactivate(one),),
        (ng.Raise(two, 0.2), ng.Add(three, 0.1, site="hidden")),
        (ng.Scale(three, 2.0), ng.Deactivate(one, site="hidden")),
    ]
    with torch.inference_mode():
        layers, before = FusedLayers.of(model), model.network(ids).logits
        assert len(layers.layers) == plain
        assert bool(layers.gated) == (family != "opt")
        for some in (recipes, recipes[1:2]):
            edits, _ = RowEdits.of_parts(model, some, 3)
            edits.assign(torch.arange(3), torch.arange(3))
            with edits.applied(3):
                expected = model.network(ids).logits
            for step in (False, True):
                with layers.applied(edits, 3, step):
                    torch.testing.assert_close(model.network(ids).logits, expected)
        assert torch.equal(model.network(ids).logits, before)


def test_hooks_and_new_weights_are_obeyed():
    model = tiny.model("llama")
    ids = torch.arange(5, 12)[None]
    none, _ = RowEdits.of_parts(model, [()], 1)
    with torch.inference_mode():
        layers = FusedLayers.of(model)
        with ng.intervene(model, ng.Deactivate(masks(model)[0])):
            expected = model.network(ids).logits
            with layers.applied(none, 1):
                torch.testing.assert_close(model.network(ids).logits, expected)
        layer = model.network.model.layers[1]
        hook = layer.self_attn.o_proj.register_forward_hook(lambda _, __, output: 2 * output)
        expected = model.network(ids).logits
        with layers.applied(none, 1):
            torch.testing.assert_close(model.network(ids).logits, expected)
        hook.remove()
        for part in (layer.self_attn.k_proj, layer.mlp.up_proj):
            part.weight.mul_(3)
        layers.refresh()
        expected = model.network(ids).logits
        with layers.applied(none, 1):
            torch.testing.assert_close(model.network(ids).logits, expected)


def test_another_residual_is_not_taken_for_a_plain_one():
    network = tiny.network("granite")
    for layer in network.model.layers:
        layer.residual_multiplier = 0.5
    layers = FusedLayers.of(ng.Model(network, tiny.tokenizer()))
    assert layers.gated
    assert not layers.layers


@torch.inference_mode()
def test_what_accelerate_placed_is_found_too():
    from accelerate import dispatch_model

    plain = tiny.model()
    network = dispatch_model(tiny.network(), {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    placed = ng.Model(network, tiny.tokenizer())
    found = [FusedLayers.of(model) for model in (plain, placed)]
    for part in ("norms", "gated", "joined", "layers"):
        assert len(getattr(found[0], part)) == len(getattr(found[1], part)) > 0
    ids = torch.randint(5, 200, (3, 7), generator=torch.Generator().manual_seed(0))
    edits, _ = RowEdits.of_parts(placed, [(ng.Deactivate(mask),) for mask in masks(placed)], 3)
    edits.assign(torch.arange(3), torch.arange(3))
    with edits.applied(3):
        before = network(ids).logits
    with found[1].applied(edits, 3):
        assert torch.allclose(network(ids).logits, before, atol=1e-5)
        assert not [part for part in found[1].gated if "forward" not in vars(part.module)]
    assert torch.allclose(network(ids).logits, plain.network(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_told_by_every_dimension(dtype):
    """In Gemma some weights are 600 and the others near 0, so that one more or less is lost in the largest."""
    network = tiny.network("gemma3_text").to(dtype)
    with torch.inference_mode():
        for layer in network.model.layers:
            layer.pre_feedforward_layernorm.weight[3] = 600.0
        model = ng.Model(network, tiny.tokenizer())
        layers = FusedLayers.of(model)
        assert len(layers.norms) == 1 + 6 * model.layers and {norm.more for norm in layers.norms} == {1}
        edits, _ = RowEdits.of_parts(model, [(ng.Deactivate(masks(model)[0]),)], 2)
        edits.assign(torch.arange(1), torch.zeros(1, dtype=torch.int64))
        assert reads_as_plain(model, layers, edits)


def test_prompts_are_read_by_parts_that_were_proved():
    model = tiny.model("gemma3_text")
    layers = FusedLayers.of(model)
    edits, _ = RowEdits.of_parts(model, [()], 1)
    for norm in layers.norms[:2]:
        norm.more = 0
    assert not reads_as_plain(model, layers, edits)
