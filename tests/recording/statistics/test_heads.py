"""What each head gives, against the product written out; and the methods on heads."""

import warnings

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.rows import RowEdits
from neuroglot.identify.ranking import METHODS
from neuroglot.tokens.packing import pack

BOTH = ("active", "activation", "hidden", "heads")


@pytest.fixture(scope="module")
def with_heads(model):
    return ng.record(model, tiny.corpus(), block=16, statistics=BOTH, progress=False)


def by_hand(model, tag):
    """Norms of each head's share, head by head, from what enters the output projections."""
    blocks = pack(model, tiny.corpus()[tag], tag, block=16, tokens=10**6).long()
    entered = []
    handles = [
        each.projection.register_forward_pre_hook(lambda _, args: entered.append(args[0])) for each in model.attentions
    ]
    with torch.no_grad():
        model.network(blocks)
        for handle in handles:
            handle.remove()
        norms = []
        for layer, x in zip(model.network.model.layers, entered, strict=True):
            weight = layer.self_attn.o_proj.weight
            shares = [x[:, 1:, 8 * h : 8 * h + 8] @ weight[:, 8 * h : 8 * h + 8].T for h in range(2)]
            norms.append(torch.stack([share.double().norm(dim=-1) for share in shares], -1))
    return torch.stack(norms)  # (L, blocks, tokens, H)


def test_equals_the_product_written_out(model, with_heads):
    for k, tag in enumerate(with_heads.languages):
        norms = by_hand(model, tag)
        torch.testing.assert_close(with_heads.sum("heads")[..., k], norms.sum((1, 2)), rtol=1e-5, atol=1e-4)
        leads = (norms > norms.mean(-1, keepdim=True)).sum((1, 2))
        assert (with_heads.sum("heads_active")[..., k] - leads).abs().max() <= 1  # equal to rounding


def test_the_rest_of_the_recording_is_as_without(model, with_heads, recording, tmp_path):
    for name in ("active", "activation", "hidden"):
        assert torch.equal(with_heads.sum(name), recording.sum(name))
    assert list(with_heads.frame()) == list(recording.frame())
    again = ng.Recording.load(with_heads.save(tmp_path / "r.safetensors"))
    assert torch.equal(again.of("heads").active, with_heads.of("heads").active)
    half = ng.record(model, tiny.corpus(), block=16, statistics=BOTH, shard_tokens=32, progress=False)
    torch.testing.assert_close(half.sum("heads"), with_heads.sum("heads"), rtol=1e-6, atol=1e-6)
    with pytest.raises(ng.NeuroglotError, match="'heads'"):
        recording.of("heads")


@pytest.mark.parametrize("method", ["lape", "lave", "margin", "lap", "random"])
def test_methods_choose_heads(model, with_heads, method):
    settings = {"threshold": 0.4} if method == "lap" else {"top_fraction": 0.34}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ng.NeuroglotWarning)
        heads = METHODS[method](with_heads.of("heads"), **settings)
    assert heads.shape == model.shape("heads") == (3, 2)
    with ng.intervene(model, ng.Deactivate(heads["fr"], site="heads")):
        ng.evaluate.perplexity(model, tiny.corpus(), block=16, tokens=64, progress=False)


def test_recipes_rows_and_refusals(model, with_heads, tmp_path):
    heads = torch.tensor([[True, False], [False, False], [True, True]])
    neurons = torch.zeros(3, 24, dtype=torch.bool)
    neurons[0, 3] = True
    factors = torch.tensor([[0.5, 1.0], [1.0, 1.0], [2.0, 0.0]])
    off = ng.Deactivate(heads & (factors > 1), site="heads")
    steps = (ng.Scale(heads, factors, site="heads"), ng.Deactivate(neurons), off)
    recipe = Recipe(steps, model.fingerprint)
    again = Recipe.load(recipe.save(tmp_path / "r.safetensors"))
    assert again.digest == recipe.digest
    tokens = torch.randint(3, 250, (2, 9))
    with torch.no_grad():
        with again.applied(model):
            expected = model.hidden_states(tokens).clone()
        rows, _ = RowEdits.of_parts(model, [(), steps], 2)
        rows.assign(torch.arange(2), torch.tensor([0, 1]))
        with rows.applied(2):
            got = model.hidden_states(tokens)
        torch.testing.assert_close(got[1], expected[1])
        torch.testing.assert_close(got[0], model.hidden_states(tokens)[0])
    for step, sentence in (
        (ng.Add(heads, 1.0, site="heads"), "a head is a vector"),
        (ng.Deactivate(heads[:2], site="heads"), "heads, but this one has"),
    ):
        with pytest.raises(ng.NeuroglotError, match=sentence), ng.intervene(model, step):
            pass
    with pytest.raises(ng.NeuroglotError, match="heads cannot be baked"):
        recipe.bake(model, tmp_path / "baked")
    with pytest.raises(ng.NeuroglotError, match="acts on heads"):
        recipe.export(tmp_path / "v.gguf")
    with ng.intervene(model, steps[0]), pytest.raises(ng.NeuroglotError, match="intervention is in force"):
        ng.record(model, tiny.corpus(), block=16, progress=False)
