"""What must not happen while text is read, counted: no noise of a machine can hide or fake it."""

import sys
from collections import Counter
from importlib import import_module

import every_type
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import neuroglot as ng
from neuroglot.recording.statistics.sums import STATISTICS

BLOCK = 32


class Shapes(TorchDispatchMode):
    """Every tensor that an operation makes, by shape."""

    def __init__(self):
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self.made[tuple(each.shape)] += 1
        return result


@pytest.fixture
def looks(monkeypatch):
    """How often our code asked, while the body ran, for a value on the host: each would make a GPU wait."""
    counted, inside = Counter(), []
    body = ng.Model.hidden_states

    def watched(*args, **kwargs):
        inside.append(True)
        try:
            return body(*args, **kwargs)
        finally:
            inside.pop()

    def count(name):
        original = getattr(torch.Tensor, name)

        def looked(*args, **kwargs):
            if inside and sys._getframe(1).f_globals.get("__name__", "").startswith("neuroglot"):
                counted[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, looked)

    monkeypatch.setattr(ng.Model, "hidden_states", watched)
    for name in ("cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        count(name)
    return counted


def big(shapes, model, rows):
    """Tensors of at least `rows` tokens by the vocabulary."""
    return [shape for shape in shapes.made if shape and shape[-1] == model.vocabulary and sum(shape[:-1]) >= rows]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recording_never_looks_at_the_host_nor_at_the_vocabulary(family, looks):
    model = tiny.model(family)
    with Shapes() as shapes:
        ng.record(model, tiny.corpus(), block=BLOCK, statistics=STATISTICS, progress=False)
    assert shapes.made and not big(shapes, model, 2) and not looks
    split = ng.experts.partition(model, 4)
    ng.record(model, tiny.corpus(), block=BLOCK, partition=split, progress=False)
    assert set(looks) <= {"__bool__"}  # whether scores are equal, which the kernel of a GPU need not ask


def test_sums_of_a_native_mixture_of_experts_are_of_the_tokens_that_reach_an_expert():
    """No table of every token and every neuron is made, though examples need one; the sums are the same with it."""
    model = ng.Model(every_type.network("qwen2_moe"), tiny.tokenizer())
    neurons = model.mixtures[0].experts * model.mixtures[0].width
    made, sums = [], []
    for examples in (0, 2):
        with Shapes() as shapes:
            recording = ng.record(
                model, tiny.corpus(), block=BLOCK, statistics=STATISTICS, examples=examples, progress=False
            )
        made.append([shape for shape in shapes.made if len(shape) > 1 and shape[-1] == neurons and shape[-2] > 1])
        sums.append(recording.sums)
    assert made[1] and not made[0]
    assert all(torch.equal(sums[0][name], sums[1][name]) for name in ("active", "routed"))
    for name, values in sums[0].items():
        torch.testing.assert_close(sums[1][name], values)


def test_samples_never_look_at_the_host_while_they_are_read(looks):
    model, texts = tiny.model(), tiny.corpus()
    cut = {tag: [text[: 20 + i] for i, text in enumerate(texts[tag])] for tag in ("en", "fr")}
    parallel = ng.Corpus(cut, parallel=True)
    ng.record_samples(model, parallel, samples=6, statistics=STATISTICS, progress=False)
    assert not looks


def test_perplexity_never_makes_a_block_by_vocabulary(monkeypatch, looks):
    model = tiny.model()
    monkeypatch.setattr(
        import_module("neuroglot.evaluate.likelihood.perplexity"), "LOGITS_AT_ONCE", 8 * model.vocabulary
    )
    with Shapes() as shapes, ng.intervene(model, ng.Deactivate(torch.rand(model.layers, model.neurons) < 0.5)):
        ng.evaluate.perplexity(model, tiny.corpus(), block=BLOCK, progress=False)
    assert big(shapes, model, 8) and not big(shapes, model, 9) and not looks


def test_the_watchers_see_what_they_watch(looks):
    model = tiny.model()
    with Shapes() as shapes, torch.no_grad():
        model.network(torch.zeros(1, 9, dtype=torch.int64))
    assert big(shapes, model, 9)
    source = "def look(x):\n    x.sum().item()\n    return x"
    of_ours = {"__name__": "neuroglot.elsewhere"}
    exec(source, of_ours)
    with model.ffns[0].edit("activation", of_ours["look"]):
        model.hidden_states(torch.zeros(1, 9, dtype=torch.int64))
    assert looks == {"item": 1}
