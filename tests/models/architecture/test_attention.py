"""Heads: found in every family, and switching one off is zeroing its columns of the output projection."""

import every_type
import pytest
import tiny
import torch

import neuroglot as ng

SOME = ["llama", "gpt2", "bloom", "falcon", "phi3", "opt", "gemma2", "qwen3"]
# grouped-query, latent, gated, convolution beside it, sinks, an attention in every other layer
KINDS = ["deepseek_v3", "minicpm3", "qwen3_next", "gpt_oss", "mpt"]


def check(model, tokens):
    """Ablation and scaling of heads against the weights themselves."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(model.shape("heads"), generator=generator) < 0.5
    chosen[:, 0] = True
    factor = torch.rand(model.shape("heads"), generator=generator) * 2
    with torch.no_grad():
        intact = model.hidden_states(tokens).clone()
        with ng.intervene(model, ng.Deactivate(chosen, site="heads")):
            off = model.hidden_states(tokens).clone()
        with ng.intervene(model, ng.Scale(chosen, factor, site="heads")):
            scaled = model.hidden_states(tokens).clone()
        assert torch.equal(model.hidden_states(tokens), intact)
        before = [attention.weight.clone() for attention in model.attentions]
        for what, got in ((torch.zeros_like(factor), off), (factor, scaled)):
            for place, attention in enumerate(model.attentions):
                for head in range(attention.heads):
                    if chosen[place, head]:
                        attention.weight[:, attention.columns[head]] *= what[place, head]
            torch.testing.assert_close(got, model.hidden_states(tokens), rtol=1e-3, atol=1e-4)
            assert not torch.allclose(got, intact, atol=1e-3)
            for attention, weight in zip(model.attentions, before, strict=True):
                attention.weight.copy_(weight)


@pytest.mark.parametrize("family", SOME)
def test_off_is_zeroed_columns(family):
    model = tiny.model(family)
    assert [(each.heads, each.width) for each in model.attentions] == [(2, 8)] * 3
    assert [each.layer for each in model.attentions] == [ffn.layer for ffn in model.ffns]
    assert model.attentions[0].columns.tolist() == [list(range(8)), list(range(8, 16))]
    check(model, torch.randint(3, 250, (2, 7)))


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_of_attention(kind):
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    assert {(each.heads, each.width) for each in model.attentions} == {(4, 8)}
    check(model, every_type.TOKENS)


def test_grouped_queries_have_a_head_for_each_query():
    model = tiny.model("llama", num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    assert [(each.heads, each.width) for each in model.attentions] == [(4, 4)] * 3
    check(model, torch.randint(3, 250, (2, 7)))


def test_a_state_space_model_has_none():
    with pytest.raises(ng.NeuroglotError, match="No attention"):
        from neuroglot.models.architecture.attention import find_attentions

        find_attentions(every_type.network("mamba"))
