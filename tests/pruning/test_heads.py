"""Heads taken out as plain weights: what ablating them gives, in plain transformers; which ones; and the re-fit."""

import itertools

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import neuroglot as ng
from neuroglot.models.architecture.head_groups import HeadGroups, head_groups, kept_groups
from neuroglot.pruning.checkpoint import cut
from neuroglot.pruning.compensation import loss, refitted
from neuroglot.pruning.heads import HeadCut, cheapest_heads, random_heads, refitted_heads
from neuroglot.pruning.moments import blocks_for_moments, moments_by_layer

SAYS = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "smollm3",
    "granite",
    "gemma",
    "gemma2",
    "gemma3_text",
    "cohere",
    "cohere2",
    "olmo",
    "phi",
}
"""Families whose config can say it. OLMo 2's norm is of all heads, and others have one projection."""


def grouped(family, heads=6, groups=2):
    changes = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": 8, "hidden_size": 48}
    return ng.Model(tiny.network(family, **changes), tiny.tokenizer())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_heads_taken_out_are_heads_ablated(family, tmp_path):
    model = grouped(family) if family in SAYS else tiny.model(family)
    whole = head_groups(model.network, model.attentions)
    keep = torch.ones(model.shape("heads"), dtype=torch.bool)
    if family not in SAYS:
        assert whole is None
        keep[:, 0] = False
        with pytest.raises(ng.NeuroglotError, match="cannot be taken out"):
            ng.prune(model, model.exists, tmp_path / "x", heads=keep)
        assert not list(tmp_path.iterdir())
        return
    assert whole == HeadGroups(2, 3, 8)
    tokens = torch.tensor([[256, 5, 77, 130, 9]])
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    neurons = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(1)).argsort(1) < 16
    for wanted in (HeadGroups(2, 1, 8), HeadGroups(1, 3, 8)):
        full = torch.ones(model.shape("heads"), dtype=torch.bool)
        keep = random_heads(cheapest_heads(model, tokens, whole, wanted) & full, whole, seed=3)
        assert kept_groups(keep, whole) == wanted
        path = ng.prune(model, neurons, tmp_path / f"{wanted.groups}", heads=keep)
        with torch.no_grad(), ng.intervene(model, ng.Deactivate(~neurons), ng.Deactivate(~keep, site="heads")):
            ablated = model.network(tokens).logits
        with torch.no_grad():
            torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(path)(tokens).logits, ablated, rtol=1e-4,
                                       atol=1e-4)  # fmt: skip
            opened = ng.load_model(path)
            assert head_groups(opened.network, opened.attentions) == wanted
            torch.testing.assert_close(opened.network(tokens).logits, ablated, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    assert head_groups(model.network, model.attentions) == whole


def test_the_heads_that_go_are_those_that_a_refitted_layer_misses_least():
    """Against brute force: the first step tries every head."""
    model = grouped("llama", heads=4, groups=1)
    blocks = blocks_for_moments(model, tiny.corpus(60)["fr"], "fr", tokens=2_000, block=32)
    whole = HeadGroups(1, 4, 8)
    keep = cheapest_heads(model, blocks, whole, HeadGroups(1, 3, 8))
    for attention, moments, kept in zip(model.attentions, moments_by_layer(model, blocks, of="heads", progress=False),
                                        keep, strict=True):  # fmt: skip
        losses = {}
        for head in range(4):
            stays = torch.arange(32) // 8 != head
            filled = torch.zeros_like(attention.weight)
            filled[:, stays] = refitted(attention.weight.detach(), moments, stays, intercept=False)[0]
            losses[head] = loss(attention.weight.detach(), moments, filled)
        gone = int((~kept).nonzero())
        assert losses[gone] == pytest.approx(min(losses.values()), rel=1e-2)


def test_a_refit_gives_more_of_what_all_heads_gave():
    model = grouped("qwen2")
    blocks = blocks_for_moments(model, tiny.corpus(60)["fr"], "fr", tokens=2_000, block=32)
    whole = HeadGroups(2, 3, 8)
    keep = cheapest_heads(model, blocks, whole, HeadGroups(2, 2, 8))
    fit = refitted_heads(model, keep, blocks, ridges=(1e-3,))
    moments = list(moments_by_layer(model, blocks[: len(blocks) - len(blocks) // 8], of="heads", progress=False))
    old = [attention.weight.detach().clone() for attention in model.attentions]
    for weight, of, stays, change in zip(old, moments, keep, fit.changes, strict=True):
        columns = stays.repeat_interleave(8)
        bare, filled = torch.zeros_like(weight), torch.zeros_like(weight)
        bare[:, columns], filled[:, columns] = weight[:, columns], change.columns
        assert loss(weight, of, filled) < loss(weight, of, bare)
    with cut(model, model.exists, None, None, fit):
        assert torch.equal(model.attentions[0].weight, fit.changes[0].columns)
        assert model.text_config.num_attention_heads == 4
    assert torch.equal(model.attentions[0].weight, old[0])
    assert model.text_config.num_attention_heads == 6
    with cut(model, model.exists, None, None, HeadCut(torch.ones_like(keep))):
        assert torch.equal(model.attentions[0].weight, old[0])


def test_random_heads_are_as_many_everywhere_and_any_of_them():
    whole = HeadGroups(3, 4, 2)
    drawn = set()
    for wanted, seed in itertools.product((HeadGroups(3, 2, 2), HeadGroups(2, 4, 2)), range(30)):
        keep = torch.zeros(5, 3, 4, dtype=torch.bool)
        keep[:, : wanted.groups, : wanted.each] = True
        got = random_heads(keep.flatten(1), whole, seed)
        assert kept_groups(got, whole) == wanted
        drawn |= set(got.nonzero()[:, 1].tolist())
    assert drawn == set(range(12))
    with pytest.raises(ng.NeuroglotError, match="as many"):
        kept_groups(torch.arange(12).expand(2, 12) < torch.tensor([[4], [8]]), whole)
    with pytest.raises(ng.NeuroglotError, match="as many"):
        kept_groups(torch.arange(12).expand(2, 12) < 5, whole)


def test_masks_that_are_none_are_refused(tmp_path):
    model = grouped("llama")
    for mask in (torch.zeros(model.shape("heads"), dtype=torch.bool), model.exists):
        with pytest.raises(ng.NeuroglotError):
            ng.prune(model, model.exists, tmp_path / "x", heads=mask)
    assert not list(tmp_path.iterdir())
