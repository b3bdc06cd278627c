"""What looks like an FFN and is none, or is one in a way of its own: found as it is, or refused, and never misread."""

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.models.architecture.edits import Edits, at_output
from neuroglot.models.architecture.proof import prove, prove_heads

TOKENS = torch.randint(3, 250, (2, 7), generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, width), nn.Linear(16, width)
        self.down_proj, self.act_fn = nn.Linear(width, 16), nn.SiLU()

    def hidden(self, x):
        return self.act_fn(self.gate_proj(x)) * self.up_proj(x)

    def forward(self, x):
        return self.down_proj(self.hidden(x))


class ThrownAway(Gated):
    def __init__(self):
        super().__init__()
        self.decoy = Gated(64)

    def forward(self, x):
        self.decoy(x)
        return super().forward(x)


class TimesZero(ThrownAway):
    def forward(self, x):
        return Gated.forward(self, x) + 0 * self.decoy(x)


class Swapped(Gated):
    def hidden(self, x):
        return self.gate_proj(x) * self.act_fn(self.up_proj(x))


class ResidualInside(Gated):
    def forward(self, x):
        return x + super().forward(x)


class SkipAroundTheActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Linear(16, 24), nn.Linear(24, 16), nn.ReLU()

    def forward(self, x):
        before = self.a(x)
        return self.b(before + self.act(before))


class SecondReader(Gated):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(24, 16)

    def forward(self, x):
        hidden = self.hidden(x)
        return self.down_proj(hidden) + self.other(hidden)


class MeanBeside(Gated):
    def forward(self, x):
        hidden = self.hidden(x)
        return self.down_proj(hidden) + hidden.mean(-1, keepdim=True)


class GateReadAgain(Gated):
    def forward(self, x):
        activation = self.act_fn(self.gate_proj(x))
        return self.down_proj(activation * self.up_proj(x)) * activation.mean(-1, keepdim=True)


class Adapter(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.a = base, nn.Linear(base.in_features, 4)
        self.b = nn.Linear(4, base.out_features)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


class AdapterOnDown(Gated):
    def __init__(self):
        super().__init__()
        self.down_proj = Adapter(self.down_proj)


class AdaptedLinear(nn.Linear):
    def __init__(self, ins, outs):
        super().__init__(ins, outs)
        self.a, self.b = nn.Linear(ins, 4), nn.Linear(4, outs)

    def forward(self, x):
        return super().forward(x) + self.b(self.a(x))


class AdaptedUp(Gated):
    def __init__(self):
        super().__init__()
        self.up_proj = AdaptedLinear(16, 24)


class Third(Gated):
    """Has a projection besides, of the gate's shape, which makes no neurons."""

    def __init__(self):
        super().__init__()
        self.other, self.uncalled = nn.Linear(16, 24), nn.Linear(16, 24)

    def forward(self, x):
        return super().forward(x) + self.other(x).mean(-1, keepdim=True)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.other, self.b, self.act_fn = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16), nn.ReLU()

    def forward(self, x):
        return self.b(self.act_fn(self.a(x))) + self.other(x).mean(-1, keepdim=True)


class Statistics(Gated):
    """Reads its neurons for a number that goes nowhere."""

    def hidden(self, x):
        hidden = super().hidden(x)
        self.sparsity = (hidden > 0).float().mean()
        return hidden


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 24)

    def forward(self, x):
        return F.silu(self.up(x)) @ self.up.weight


class TwoInOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Gated(), Gated()

    def forward(self, x):
        return self.second(x + self.first(x))


class Parallel(nn.Module):
    """One block of an attention and an FFN that both read the block's input."""

    def __init__(self, layer):
        super().__init__()
        self.attn, self.ffn, self.norm = layer.self_attn, Gated(), layer.input_layernorm

    def forward(self, hidden_states, **kwargs):
        read = self.norm(hidden_states)
        kept = {name: kwargs[name] for name in ("position_embeddings", "attention_mask") if name in kwargs}
        return hidden_states + self.attn(hidden_states=read, **kept)[0] + self.ffn(read)


def made(ffn=None, kind="llama"):
    torch.manual_seed(0)
    network = tiny.network("llama")
    for layer in network.model.layers if ffn else ():
        layer.mlp = ffn()
    network.config.model_type = kind
    return network.eval()


@torch.no_grad()
def check(model):
    """Neurons that are off are zeroed columns, and matter."""
    intact = model.hidden_states(TOKENS).clone()
    for site in ("activation", "hidden"):
        chosen = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(2)) < 0.5
        with ng.intervene(model, ng.Deactivate(chosen, site=site)):
            off = model.hidden_states(TOKENS).clone()
        kept = [ffn.down_columns.clone() for ffn in model.ffns]
        for ffn, row in zip(model.ffns, chosen, strict=True):
            ffn.down_columns[:, row] = 0
        torch.testing.assert_close(off, model.hidden_states(TOKENS))
        for ffn, columns in zip(model.ffns, kept, strict=True):
            ffn.down_columns.copy_(columns)
        assert not torch.allclose(off, intact, atol=1e-4)


@pytest.mark.parametrize("kind", ["custom", "llama"])
@pytest.mark.parametrize("ffn", [ThrownAway, Swapped, ResidualInside, SkipAroundTheActivation, Statistics])
def test_found_as_it_is(ffn, kind):
    """Also where code of another's bears the type of a family that is declared."""
    model = ng.Model(made(ffn, kind), tiny.tokenizer())
    assert model.widths == (24, 24, 24)
    check(model)


NOWHERE, ELSEWHERE = "does not reach what the layer gives", "is used elsewhere too"


@pytest.mark.parametrize(
    ("ffn", "sentence"),
    [
        (TimesZero, NOWHERE),
        (SecondReader, ELSEWHERE),
        (MeanBeside, ELSEWHERE),
        (GateReadAgain, ELSEWHERE),
        (AdapterOnDown, ELSEWHERE),
        (AdaptedUp, "its up-projection is not the product of its weight"),
        (Tied, "No FFN was found"),
    ],
)
def test_refused(ffn, sentence):
    with pytest.raises(ng.NeuroglotError, match=sentence) as caught:
        ng.Model(made(ffn, "custom"), tiny.tokenizer())
    assert "\n" not in str(caught.value)


def test_a_declaration_is_proved_as_strictly():
    """The same faults, where the parts are named by hand."""
    from neuroglot.models.architecture import families

    named = families.Family(("named",), "mlp.act_fn", down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj")
    families.declare(named)
    try:
        check(ng.Model(made(Gated, "named"), tiny.tokenizer()))
        for ffn in (SecondReader, MeanBeside, GateReadAgain):
            with pytest.raises(ng.NeuroglotError, match=ELSEWHERE):
                ng.Model(made(ffn, "named"), tiny.tokenizer())
    finally:
        families._own.remove(named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("ffn", "parts", "sentence"),
    [
        (Third, {"up": "up_proj", "gate": "gate_proj", "down": "down_proj"}, None),
        (Third, {"up": "up_proj", "gate": "other", "down": "down_proj"}, "does not follow its row of the gate-proj"),
        (Third, {"up": "up_proj", "gate": "uncalled", "down": "down_proj"}, "its gate site was passed 0 times"),
        (Plain, {"up": "a", "down": "b"}, None),
        (Plain, {"up": "other", "down": "b"}, "does not follow its row of the first projection"),
    ],
)
def test_a_neuron_s_row_is_proved(ffn, parts, sentence, dtype):
    """Pruning and parameter variation go by it."""
    from neuroglot.models.architecture import families
    from neuroglot.models.architecture.find import _declared

    named = families.Family(("custom",), "mlp.act_fn", **{part: f"mlp.{name}" for part, name in parts.items()})
    network = made(ffn, "custom").to(dtype)
    ffns = _declared(network, named, "custom")
    if sentence is None:
        prove(network, ffns)
    else:
        with pytest.raises(ng.NeuroglotError, match=sentence):
            prove(network, ffns)


@pytest.mark.parametrize("share", [0.1, 0.05])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_small_adapter_is_seen_in_any_type(dtype, share):
    network = made(Gated, "custom").to(dtype)
    model = ng.Model(network, tiny.tokenizer())

    def beside(_, given, output):
        turned = given[0].roll(1, -1).repeat(1, 1, 2)[..., : output.shape[-1]]
        return output + share * output.abs().mean() / turned.abs().mean() * turned

    model.ffns[1].projections[1].register_forward_hook(beside)
    with pytest.raises(ng.NeuroglotError, match="its up-projection is not the product of its weight"):
        prove(network, model.ffns)


def test_what_hooks_compute_is_not_counted_as_the_network_s():
    """The activation is the first sum in the forward; an edit before it computes sums of its own."""
    model = ng.Model(made(SkipAroundTheActivation, "custom"), tiny.tokenizer())
    ffn, seen = model.ffns[0], []
    stop = ffn.observe(lambda activation, _: seen.append(activation.clone()))
    layer = model.network.model.layers[0]
    inner = Edits(layer, at_output(layer.mlp.a), "it was not passed")
    with torch.no_grad():
        model.hidden_states(TOKENS)
        with inner.edit(lambda x: x + 0):
            model.hidden_states(TOKENS)
    stop()
    assert torch.equal(seen[0], seen[1])


def test_code_that_changed_is_proved_anew():
    """A class of the same name and parts, with another forward."""
    ng.Model(made(Gated, "custom"), tiny.tokenizer())
    before = Gated.forward
    Gated.forward = MeanBeside.forward
    try:
        with pytest.raises(ng.NeuroglotError, match=ELSEWHERE):
            ng.Model(made(Gated, "custom"), tiny.tokenizer())
    finally:
        Gated.forward = before


def test_two_ffns_of_a_layer_are_two_rows():
    model = ng.Model(made(TwoInOne, "custom"), tiny.tokenizer())
    assert model.widths == (24,) * 6
    assert [ffn.layer for ffn in model.ffns] == [layer for layer in model.network.model.layers for _ in range(2)]
    check(model)


def test_a_parallel_block():
    network = made()
    network.model.layers = nn.ModuleList(map(Parallel, network.model.layers))
    network.config.model_type = "custom"
    check(ng.Model(network.eval(), tiny.tokenizer()))


@pytest.mark.parametrize("shared", ["layer", "mlp", "down"])
def test_what_runs_in_several_layers_belongs_to_none(shared):
    network = made(kind="custom")
    first, second = network.model.layers[:2]
    if shared == "layer":
        network.model.layers[1] = first
    elif shared == "mlp":
        second.mlp = first.mlp
    else:
        second.mlp.down_proj = first.mlp.down_proj
    with pytest.raises(ng.NeuroglotError, match="runs 2 times a token, so it belongs to no one layer"):
        ng.Model(network, tiny.tokenizer())


def test_layers_need_no_list_and_what_lies_in_none_is_no_layer():
    network = made(kind="custom")
    network.model.layers = nn.Sequential(*network.model.layers)
    network.model.norm = nn.Sequential(network.model.norm, Gated())
    model = ng.Model(network.eval(), tiny.tokenizer())
    assert [ffn.layer for ffn in model.ffns] == list(network.model.layers)


def test_a_wrong_head_site_is_refused():
    """A mixture of streams enters many projections, and a projection that an adapter sits beside is not its weight."""
    network = made()
    model = ng.Model(network, tiny.tokenizer())
    prove_heads(network, model.attentions)
    attention = model.attentions[1]
    attention.projection = network.model.layers[1].mlp.gate_proj
    prove_heads(network, model.attentions)  # which is a product, too
    network.model.layers[1].mlp.gate_proj.register_forward_hook(lambda m, given, output: output + 1)
    with pytest.raises(ng.NeuroglotError, match="taken for the output projection of an attention"):
        prove_heads(network, model.attentions)


@pytest.mark.parametrize("ffn", [Gated, MeanBeside])
def test_a_few_huge_dimensions_hide_nothing(ffn):
    """Trained models have them, thousands of times as large as the rest of the stream."""
    network = made(ffn, "custom")
    with torch.no_grad():
        network.model.embed_tokens.weight[:, 3] = 1e5
    if ffn is Gated:
        ng.Model(network, tiny.tokenizer())
    else:
        with pytest.raises(ng.NeuroglotError, match=ELSEWHERE):
            declared_anyway(network)


def declared_anyway(network):
    """As a declaration would say it, so that only the proof can refuse it."""
    from neuroglot.models.architecture import families
    from neuroglot.models.architecture.find import _declared

    named = families.Family(("custom",), "mlp.act_fn", down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj")
    prove(network, _declared(network, named, "custom"))
