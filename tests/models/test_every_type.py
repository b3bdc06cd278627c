"""Every causal type of transformers that builds small: its neurons are found, and are what they are said to be."""

from collections import Counter

import every_type
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.models.architecture.families import FAMILIES
from neuroglot.models.architecture.find import discovered, find_ffns
from neuroglot.models.architecture.hooks import observe_ffn

TOKENS = torch.randint(3, 250, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", every_type.SAMPLE)
def test_a_type_of_each_layout(kind):
    outcome = every_type.tried(kind)
    assert outcome.recorded, outcome.reason


@torch.no_grad()
def test_the_stream_of_a_layer_that_gives_a_list():
    """The first GPT's."""
    network = every_type.network("openai-gpt")
    model = ng.Model(network, tiny.tokenizer())
    values = torch.zeros(model.layers, model.stream_width)
    values[1] = 2.0
    with ng.intervene(model, ng.Add(values > 0, values, site="residual")):
        steered = model.hidden_states(TOKENS)
    hook = network.transformer.h[1].register_forward_hook(lambda _, __, output: [output[0] + 2.0, *output[1:]])
    expected = model.hidden_states(TOKENS)
    hook.remove()
    assert torch.equal(steered, expected) and not torch.equal(steered, model.hidden_states(TOKENS))


@pytest.mark.slow
def test_nine_of_ten_dense_types_are_recorded():
    outcomes = [every_type.tried(kind) for kind in every_type.SOME if kind not in every_type.WITHOUT_FFN]
    states = Counter(outcome.state for outcome in outcomes)
    dense = states["recorded"] + states["not found"]
    assert states["wrong"] == 0, [outcome for outcome in outcomes if outcome.state == "wrong"]
    assert states["recorded"] >= 0.9 * dense, [outcome for outcome in outcomes if outcome.state == "not found"]
    assert dense > (100 if every_type.SOME == every_type.TYPES else 10)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_discovery_finds_what_is_declared(family):
    network = tiny.network(family)
    for declared, found in zip(find_ffns(network), discovered(network), strict=True):
        assert (found.layer, found.activation, found.down) == (declared.layer, declared.activation, declared.down)
        assert (found.gated, found.neurons, found.one_site) == (declared.gated, declared.neurons, declared.one_site)
        assert torch.equal(found.up_rows, declared.up_rows)
        if declared.gated:
            assert torch.equal(found.gate_rows, declared.gate_rows)


def renamed(module: nn.Module, draw: torch.Generator) -> None:
    """Give every module of a network a random name that its parent's forward still finds."""
    for name, child in list(module.named_children()):
        renamed(child, draw)
        if isinstance(module, nn.ModuleList):
            continue
        other = f"m{int(torch.randint(10**9, (1,), generator=draw))}"
        module._modules[other] = module._modules.pop(name)
        module.__dict__[name] = child


def test_names_play_no_part():
    network = tiny.network("llama")
    expected = [(ffn.activation, ffn.down) for ffn in find_ffns(network)]
    for layer in network.model.layers:
        renamed(layer, torch.Generator().manual_seed(0))
    assert [(ffn.activation, ffn.down) for ffn in discovered(network)] == expected


class Decoy(nn.Module):
    """Three projections called as an FFN's are, of which none makes neurons."""

    def __init__(self, width: int):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, 24), nn.Linear(width, 24)
        self.down_proj, self.act_fn = nn.Linear(24, width), nn.SiLU()

    def forward(self, x):
        return self.down_proj((self.gate_proj(x) + self.up_proj(x)).cumsum(1)) + 0 * self.act_fn(x)


class Inline(nn.Module):
    """An FFN without a word of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.a, self.b = nn.Linear(width, 40), nn.Linear(20, width)

    def forward(self, x):
        up, gate = self.a(x).chunk(2, -1)
        return self.b(F.dropout(up * (F.relu(gate) ** 2), training=self.training))


def test_a_decoy_is_not_taken_for_an_ffn():
    network = tiny.network("llama")
    with torch.no_grad():
        for layer in network.model.layers:
            layer.mlp = Decoy(16)
    with pytest.raises(ng.NeuroglotError, match="No FFN was found in llama"):
        discovered(network)


def test_an_ffn_that_is_written_in_line_is_recorded_and_edited():
    network = tiny.network("llama", num_hidden_layers=2)
    for layer in network.model.layers:
        layer.mlp = Inline(16).eval()
    ffns = discovered(network)
    assert [ffn.neurons for ffn in ffns] == [20, 20] and all(ffn.gated for ffn in ffns)
    seen: list = []
    with torch.no_grad(), observe_ffn(ffns, lambda i, a, h: seen.append((a.clone(), h.clone()))):
        network(TOKENS)
    ins: list = []
    handle = network.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: ins.append(args[0].clone()))
    with torch.no_grad():
        network(TOKENS)
        handle.remove()
        up, gate = network.model.layers[0].mlp.a(ins[0]).chunk(2, -1)
    torch.testing.assert_close(seen[0][0], F.relu(gate) ** 2)
    torch.testing.assert_close(seen[0][1], up * F.relu(gate) ** 2)


def test_uneven_layers_are_recorded_identified_and_edited(tmp_path):
    model = ng.Model(every_type.network("gemma3n_text"), tiny.tokenizer())
    assert model.widths == (48, 64, 48, 32) and model.neurons == 64
    recording = ng.record(model, tiny.corpus(), block=16, progress=False)
    assert recording.widths == model.widths
    recording.save(tmp_path / "r.safetensors")
    assert ng.Recording.load(tmp_path / "r.safetensors").widths == model.widths
    beyond = ~model.exists
    assert not bool(recording.active[beyond].any())
    total = sum(model.widths)
    for neurons in (
        ng.identify.lape(recording, top_fraction=0.2, activity_quantile=0.5),
        ng.identify.random(recording, top_fraction=0.3),
        ng.identify.lap(recording, threshold=0.0),
    ):
        assert not bool(neurons.mask[:, beyond].any()) and bool(neurons.mask.any())
    assert set(ng.identify.random(recording, top_fraction=0.3).sizes().values()) == {round(0.3 * total)}
    texts = tiny.corpus(4)
    parallel = ng.Corpus({tag: list(texts[tag]) for tag in texts.languages}, name="p", parallel=True)
    samples = ng.record_samples(model, parallel, states=False, progress=False)
    with pytest.raises(ng.NeuroglotError, match="4 residual streams"):
        ng.record_samples(model, parallel, states=True, progress=False)
    assert not bool(samples.vectors.view(3, 4, model.layers, -1)[:, :, beyond].any())
    everything = torch.ones(model.layers, model.neurons, dtype=torch.bool)
    some = ng.identify.random(recording, top_fraction=0.3)["en"]
    with torch.no_grad(), ng.intervene(model, ng.Deactivate(some)):
        expected = model.network(TOKENS).logits
    for made in (ng.bake(model, some, tmp_path / "baked"), ng.prune(model, ~some, tmp_path / "pruned")):
        again = ng.load_model(made)
        with torch.no_grad():
            torch.testing.assert_close(again.network(TOKENS).logits, expected, rtol=1e-3, atol=1e-3)
    assert int(ng.identify.random(recording, top_fraction=1.0)["en"].sum()) == total
    with torch.no_grad(), ng.intervene(model, ng.Deactivate(everything)):
        model.hidden_states(TOKENS)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("bert", {"is_decoder": False}, "is_decoder"),
        ("mamba", {}, "No FFN was found in mamba"),
        ("jetmoe", {}, "mixture of experts"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(kind, changes, sentence):
    with pytest.raises(ng.NeuroglotError, match=sentence) as caught:
        ng.Model(every_type.network(kind, **changes), tiny.tokenizer())
    assert "\n" not in str(caught.value)


def test_every_declared_type_is_a_causal_type():
    assert {name for family in FAMILIES for name in family.types} <= set(every_type.TYPES)
