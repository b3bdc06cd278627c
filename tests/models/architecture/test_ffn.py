"""Where the neurons are, against each family's FFN written by hand."""

import pytest
import tiny
import torch
from torch import nn

import neuroglot as ng
from neuroglot.models.architecture.families import FAMILIES
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.architecture.hooks import observe_ffn

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


def inputs_and_outputs(family: str, model: ng.Model) -> tuple[list, list]:
    """The FFN's input and output in each layer of a forward pass, seen from outside."""
    spec = tiny.FAMILIES[family]
    ins: list = []
    outs: list = []
    handles = []
    for layer in spec.layers(model.network):
        ffn = spec.ffn(layer)
        # OPT and XGLM have no FFN module: what enters fc1 and leaves fc2 is the same thing
        first = next(
            getattr(ffn, name)
            for name in ("gate_proj", "gate_up_proj", "fc1", "c_fc", "dense_h_to_4h")
            if hasattr(ffn, name)
        )
        last = next(
            getattr(ffn, name) for name in ("down_proj", "fc2", "c_proj", "dense_4h_to_h") if hasattr(ffn, name)
        )
        handles.append(first.register_forward_pre_hook(lambda _, args: ins.append(args[0].clone())))
        handles.append(last.register_forward_hook(lambda _, __, out: outs.append(out.clone())))
    with torch.no_grad():
        model.hidden_states(TOKENS)
    for handle in handles:
        handle.remove()
    return ins, outs


def test_every_declared_family_is_tested():
    declared = {name for family in FAMILIES for name in family.types}
    assert declared - {"gemma3"} == set(tiny.FAMILIES)  # gemma3 is gemma3_text with a picture reader before it


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_sites_equal_the_ffn_by_hand(family):
    model = tiny.model(family)
    spec = tiny.FAMILIES[family]
    assert (model.layers, model.neurons) == (3, spec.neurons)
    ins, outs = inputs_and_outputs(family, model)
    seen: list = []
    with observe_ffn(model.ffns, lambda i, a, h: seen.append((i, a.clone(), h.clone()))), torch.no_grad():
        model.hidden_states(TOKENS)
    assert [i for i, _, _ in seen] == [0, 1, 2]
    for (_, activation, hidden), x, out, layer in zip(seen, ins, outs, spec.layers(model.network), strict=True):
        by_hand = spec.by_hand(spec.ffn(layer), x)
        for got, expected in zip((activation, hidden, out), by_hand, strict=True):
            torch.testing.assert_close(got, expected.view_as(got), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_weights_of_a_neuron(family):
    """Rows and columns belong to the same neuron: activation by hand from them alone."""
    model = tiny.model(family)
    ffn = model.ffns[1]
    ins, _ = inputs_and_outputs(family, model)
    seen: list = []
    with observe_ffn([ffn], lambda i, a, h: seen.append((a.clone(), h.clone()))), torch.no_grad():
        model.hidden_states(TOKENS)
    x = ins[1].flatten(0, -2)
    activation, hidden = (values.flatten(0, -2) for values in seen[0])
    assert ffn.up_rows.shape == (model.neurons, 16) and ffn.down_columns.shape == (16, model.neurons)
    if ffn.gated:
        torch.testing.assert_close(hidden, activation * (x @ ffn.up_rows.T), rtol=1e-4, atol=1e-5)
        assert torch.equal(torch.sign(activation), torch.sign(x @ ffn.gate_rows.T))
    else:
        assert ffn.gate_rows is None
        assert torch.equal(activation, hidden)


@pytest.mark.parametrize("site", ["activation", "hidden"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_deactivating_is_zeroing_inputs_of_the_down_projection(family, site):
    model = tiny.model(family)
    chosen = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(2)) < 0.3
    with torch.no_grad():
        intact = model.network(TOKENS).logits
        with ng.intervene(model, ng.Deactivate(chosen, site=site)):
            off = model.network(TOKENS).logits
        kept = [ffn.down_columns.clone() for ffn in model.ffns]
        for ffn, row in zip(model.ffns, chosen, strict=True):
            ffn.down_columns[:, row] = 0
        by_hand = model.network(TOKENS).logits
        for ffn, columns in zip(model.ffns, kept, strict=True):
            ffn.down_columns.copy_(columns)
        torch.testing.assert_close(off, by_hand, rtol=1e-4, atol=1e-5)
        assert (off - intact).abs().max() > 1e-3
        assert torch.equal(model.network(TOKENS).logits, intact)


def hooks(model: ng.Model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


def test_model_is_restored_after_an_exception():
    model = tiny.model()
    everything = torch.ones(model.layers, model.neurons, dtype=torch.bool)
    with torch.no_grad():
        before = model.network(TOKENS).logits
        with pytest.raises(KeyError), ng.intervene(model, ng.Deactivate(everything)):
            assert hooks(model) == 6  # a layer's site, and one that counts whether it ran
            raise KeyError
        assert hooks(model) == 0
        assert torch.equal(model.network(TOKENS).logits, before)


def test_observers_see_edited_values_whoever_came_first():
    model = tiny.model()
    off = torch.zeros(model.layers, model.neurons, dtype=torch.bool)
    off[1, 3] = True
    seen: list = []
    observe = lambda i, a, h: seen.append((a[..., 3].abs().max().item(), h[..., 3].abs().max().item()))  # noqa: E731
    with torch.no_grad(), observe_ffn(model.ffns, observe), ng.intervene(model, ng.Deactivate(off)):
        model.hidden_states(TOKENS)
    assert seen[1] == (0, 0) and seen[0] != (0, 0) and seen[2] != (0, 0)


def test_generate_under_intervention_with_and_without_cache():
    model = tiny.model()
    off = torch.zeros(model.layers, model.neurons, dtype=torch.bool)
    off[:, ::2] = True
    run = lambda cache: model.network.generate(TOKENS, max_new_tokens=8, do_sample=False, use_cache=cache)  # noqa: E731
    intact = run(True)
    with ng.intervene(model, ng.Deactivate(off)):
        cached, uncached = run(True), run(False)
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, intact)


def test_gradients_flow_through_what_is_left():
    model = tiny.model()
    off = torch.zeros(model.layers, model.neurons, dtype=torch.bool)
    off[0, :5] = True
    with ng.intervene(model, ng.Deactivate(off)):
        model.network(TOKENS).logits.sum().backward()
    gradient = model.ffns[0].down.weight.grad
    assert torch.all(gradient[:, :5] == 0) and torch.any(gradient[:, 5:] != 0)


class Other(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_native_mixture_of_experts_is_refused(kind):
    from transformers import AutoConfig

    with pytest.raises(ng.NeuroglotError, match="mixture of experts"):
        find_ffns(Other(AutoConfig.for_model(kind)))
