"""Output change, gradient × activation and layer-wise relevance, against plain loops and the law of conservation."""

import weakref

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.identify.ranking import METHODS, rank
from neuroglot.identify.selection import Evidence
from neuroglot.recording.statistics import gradients
from neuroglot.recording.statistics.gradients import (
    GradientSums,
    RelevanceRules,
    _activations_as_gains,
    _only_activations,
)
from neuroglot.tokens.packing import pack

NAMES = ("active", "activation", "magnitude", "output", "heads", "attribution", "relevance")
TEXT = tiny.corpus(6)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def measured(request):
    model = tiny.model(request.param)
    before = [weight.requires_grad for weight in model.network.parameters()]
    made = ng.record(model, TEXT, block=16, tokens=60, statistics=NAMES, progress=False)
    assert [weight.requires_grad for weight in model.network.parameters()] == before
    return model, made


def blocks_of(model, tag):
    return pack(model, TEXT[tag], tag, block=16, tokens=60).long()


def down(model, layer):
    return model.ffns[layer].down_columns


def test_output_change_is_what_zeroing_each_neuron_changes(measured):
    model, made = measured
    entered = []
    handles = [ffn.down.register_forward_pre_hook(lambda _, args: entered.append(args[0])) for ffn in model.ffns]
    with torch.no_grad():
        model.network(blocks_of(model, "fr"))
    for handle in handles:
        handle.remove()
    k = made.languages.index("fr")
    for layer, hidden in enumerate(entered):
        hidden = hidden.view(-1, 16, 24)[:, 1:].flatten(0, 1)
        for neuron in (0, 5, 23):
            without = hidden.clone()
            without[:, neuron] = 0
            moved = ((hidden - without) @ down(model, layer).detach().T).norm(dim=1).sum()
            assert float(made.sum("output")[layer, neuron, k]) == pytest.approx(float(moved), rel=1e-4)


def test_attribution_is_that_of_autograd_on_the_whole(measured):
    model, made = measured
    tokens = blocks_of(model, "ru")
    entered = []

    def keep(_, args):
        args[0].retain_grad()
        entered.append(args[0])

    of_heads = []

    def keep_heads(_, args):
        args[0].retain_grad()
        of_heads.append(args[0])

    handles = [ffn.down.register_forward_pre_hook(keep) for ffn in model.ffns]
    handles += [attention.projection.register_forward_pre_hook(keep_heads) for attention in model.attentions]
    logits = model.network(tokens).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    for handle in handles:
        handle.remove()
    model.network.zero_grad()
    k = made.languages.index("ru")
    for layer, hidden in enumerate(entered):
        worth = (hidden * hidden.grad).abs().view(-1, 16, 24)[:, 1:].sum((0, 1)).detach().double()
        torch.testing.assert_close(made.sum("attribution")[layer, :, k], worth, rtol=1e-3, atol=1e-5)
    for place, entered in enumerate(of_heads):  # a head's columns are side by side in both
        parts = (entered * entered.grad)[:, 1:].unflatten(-1, (model.attentions[place].heads, -1)).sum(-1)
        worth = parts.abs().sum((0, 1)).detach().double()
        torch.testing.assert_close(made.sum("heads_attribution")[place, :, k], worth, rtol=1e-3, atol=1e-5)
        assert torch.equal(made.of("heads").sum("attribution")[place, :, k], made.sum("heads_attribution")[place, :, k])


def test_relevance_of_the_last_layer_written_out(measured):
    """Its neurons reach the logits through the final norm alone, whose scale is a constant."""
    model, made = measured
    tokens = blocks_of(model, "en")
    entered, streams = [], []
    handle = model.ffns[-1].down.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    after = model.ffns[-1].layer.register_forward_hook(
        lambda _, __, out: streams.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model.network(tokens)
    handle.remove()
    after.remove()
    hidden, stream = entered[0].view(-1, 16, 24).double(), streams[0].double()
    head = model.network.get_output_embeddings().weight.detach().double()
    found = torch.zeros(24, dtype=torch.float64)
    for block in range(len(tokens)):
        for place in range(15):
            x, row = stream[block, place], head[tokens[block, place + 1]]
            if model.text_config.model_type == "llama":
                norm = model.network.model.norm
                slope = norm.weight.detach().double() * row / (x.square().mean() + norm.variance_epsilon).sqrt()
            else:
                norm = model.network.transformer.ln_f
                slope = norm.weight.detach().double() * row / (x.var(unbiased=False) + norm.eps).sqrt()
                slope = slope - slope.mean()
            if place >= 1:  # BOS does not count
                found += (hidden[block, place] * (slope @ down(model, -1).double())).abs()
    torch.testing.assert_close(
        made.sum("relevance")[-1, :, made.languages.index("en")], found.detach(), rtol=1e-3, atol=1e-4
    )


def test_relevance_is_conserved():
    """Without biases, what the embeddings are given is what the logits had: nothing is made or lost on the way."""
    model = tiny.model("llama")
    tokens = torch.randint(3, 250, (1, 9))
    given = []
    with _only_activations(model.network), _activations_as_gains([ffn.activation for ffn in model.ffns]):
        embedding = model.network.get_input_embeddings()
        handle = embedding.register_forward_hook(lambda _, __, out: given.append(out))
        with RelevanceRules():
            logits = model.network(tokens).logits
        handle.remove()
        logits[0, -1, 7].backward()
    relevance, logits = (given[0] * given[0].grad).sum().detach(), logits.detach()
    assert float(relevance) == pytest.approx(float(logits[0, -1, 7]), rel=1e-3)
    with torch.no_grad():  # the values were those of the model
        torch.testing.assert_close(logits, model.network(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "statistic"), [("plnd", "output"), ("attribution", "attribution"), ("relevance", "relevance")]
)
def test_scores_by_loops(measured, method, statistic):
    _, made = measured
    scores = rank(method, Evidence(made))
    means = made.sum(statistic) / made.tokens.double()
    shares = [means[..., k] / means[..., k].sum() for k in range(3)]
    for k in range(3):
        others = [shares[j] for j in range(3) if j != k]
        for layer, neuron in ((0, 0), (1, 7), (2, 23)):
            expected = shares[k][layer, neuron] - max(other[layer, neuron] for other in others)
            assert float(scores[k, layer, neuron]) == pytest.approx(float(expected), abs=1e-12)


def test_plnd_takes_what_is_top_in_one_language_only(measured):
    _, made = measured
    found = METHODS["plnd"](made, top_fraction=0.25)
    top = [set(made.mean("output")[..., k].flatten().topk(18).indices.tolist()) for k in range(3)]
    for k, tag in enumerate(made.languages):
        own = top[k] - set().union(*(top[j] for j in range(3) if j != k))
        assert set(found[tag].flatten().nonzero().flatten().tolist()) == own


def test_monolinguality_by_loops(measured):
    _, made = measured
    nu = ng.identify.monolinguality(made)
    assert torch.equal(nu, rank("monolinguality", Evidence(made)))
    means = made.mean("activation").tolist()
    for layer in range(3):
        for neuron in range(24):
            row = means[layer][neuron]
            for k in range(3):
                expected = row[k] - sum(row[j] for j in range(3) if j != k) / 2
                assert float(nu[k, layer, neuron]) == pytest.approx(expected, abs=1e-12)
    for k, tag in enumerate(made.languages):
        torch.testing.assert_close(nu[k], made.language_difference(tag, "activation"))


def test_shards_add(measured):
    model, made = measured
    cut = ng.record(model, TEXT, block=16, tokens=60, statistics=NAMES, shard_tokens=16, progress=False)
    for name in (*NAMES[3:], "heads_attribution", "heads_relevance"):
        torch.testing.assert_close(cut.sum(name), made.sum(name), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", gradients.GRADIENTS)
def test_memory_is_bounded_and_given_back(name, monkeypatch):
    """Blocks go forward and back as many at once as keep a given number of bytes, and nothing of them is left."""
    model = tiny.model("llama")
    tokens = torch.randint(3, 250, (6, 16))
    whole = GradientSums(model.layers, name)
    whole.read(model, tokens, 1)
    with _only_activations(model.network):
        each = gradients._bytes_kept(model, tokens[:1], name == "relevance")
    assert each > 3 * 16 * 24 * 4  # what enters the down-projections at least
    monkeypatch.setitem(gradients.KEPT, "cpu", 2 * each)
    alive, shapes = [], []

    class Watched(GradientSums):
        def _observe(self, shape, first, add):
            observe = super()._observe(shape, first, add)
            shapes.append(tuple(shape))

            def watch(layer, hidden):
                alive.append(weakref.ref(hidden))
                observe(layer, hidden)

            return watch

    cut = Watched(model.layers, name, model.attentions)
    cut.read(model, tokens, 1)
    assert shapes == [(2, 16)] * 6  # for neurons and for heads
    assert len(alive) == 2 * 9
    assert not any(ref() is not None for ref in alive)
    torch.testing.assert_close(cut.flush()[name], whole.flush()[name], rtol=1e-4, atol=1e-7)
