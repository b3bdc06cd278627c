"""What is good is proved in every type of number, and what is wrong is refused in each."""

from dataclasses import replace

import every_type
import pytest
import torch

import neuroglot as ng
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.proof import prove

EVERY = every_type.SOME == every_type.TYPES
KINDS = every_type.TYPES if EVERY else ("lfm2", "gemma3n_text", "bitnet", "bart")
"""`make models` takes all."""


def wrong(ffns):
    """Layouts of the last dense FFN that are wrong, by what is wrong with them."""
    dense = [ffn for ffn in ffns if not isinstance(ffn, Mixture)]
    if not dense:
        return
    last, own = dense[-1], dense[-1].layout
    if own.gate is not None:
        yield "swapped", last, replace(own, up=own.gate, gate=own.up)
        yield "plain", last, replace(own, up=own.gate, gate=None)
    for other in [ffn for ffn in dense[:-1] if (ffn.neurons, ffn.gated) == (last.neurons, last.gated)][-1:]:
        yield "activation", last, replace(own, activation=other.activation)
        for name in ("up", "gate", "down"):
            part, another = getattr(own, name), getattr(other.layout, name)
            if part is not None and getattr(part, "projection", part) is not getattr(another, "projection", another):
                yield name, last, replace(own, **{name: another})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_in_sixteen_bits(kind, dtype):
    try:
        network = every_type.network(kind)
        expected = find_ffns(network)
        prove(network, expected)
    except (every_type.CannotBuild, ng.NeuroglotError) as error:
        pytest.skip(str(error))  # which the page of supported models says
    if kind == "inkling2_text":
        pytest.skip("transformers multiplies one type of number with another in it")
    network = network.to(dtype)
    ffns = find_ffns(network)
    assert [ffn.neurons for ffn in ffns] == [ffn.neurons for ffn in expected]
    prove(network, ffns)
    for what, right, layout in wrong(ffns):
        with pytest.raises(ng.NeuroglotError, match="was taken for"):
            prove(network, [FFN(layout) if ffn is right else ffn for ffn in ffns])
            pytest.fail(f"{what} was not seen")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_what_reads_ahead_is_refused(kind):
    """An embedding model of a known family has its weights and its name, and attends to what comes."""
    network = every_type.network(kind, is_causal=False)
    with pytest.raises(ng.NeuroglotError, match=f"This {kind} reads a text in both directions"):
        prove(network, find_ffns(network))
