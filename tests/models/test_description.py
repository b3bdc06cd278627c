"""What `doctor` says of a model is what happens when it is done."""

import every_type
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import neuroglot as ng
from neuroglot.edit.interventions import Add, Deactivate, Replace, Scale
from neuroglot.models.description import describe
from neuroglot.models.layer_widths import width_name

EVERY = every_type.SOME == every_type.TYPES
KINDS = {"deactivate": Deactivate, "replace": Replace} | ({"scale": Scale, "add": Add} if EVERY else {})
TYPES = ["zamba", "deepseek_v3", "opt", "lfm2", *([*tiny.FAMILIES, *every_type.SAMPLE] if EVERY else [])]
"""`make models` takes every declared family and a type of each layout."""


def opened(kind):
    network = tiny.network(kind) if kind in tiny.FAMILIES else every_type.network(kind)
    return ng.Model(network, tiny.tokenizer(), name=kind)


def some(model, share):
    return (torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < share) & model.exists


@pytest.mark.parametrize("kind", dict.fromkeys(TYPES))
@torch.no_grad()
def test_what_can_be_baked_and_pruned(kind, tmp_path):
    model = opened(kind)
    said, chosen, tokens = describe(model), some(model, 0.3), every_type.TOKENS
    for name, made in KINDS.items():
        for site in ("activation", "hidden"):
            step = made(chosen, *([] if name == "deactivate" else [0.5]), site=site)
            path = tmp_path / f"{name}-{site}"
            if site not in said.bakes.get(name, []):
                with pytest.raises(ng.NeuroglotError):
                    ng.bake(model, step, path)
                assert not path.exists()
                continue
            ng.bake(model, step, path)
            with ng.intervene(model, step):
                expected = model.hidden_states(tokens)
            torch.testing.assert_close(ng.load_model(path).hidden_states(tokens), expected, rtol=1e-3, atol=1e-3)
    if model.mixtures:  # tests/pruning/test_mixtures.py has theirs: only routed experts are made smaller
        return
    half = model.exists & (torch.arange(model.neurons) % 2 == 0)
    for name, keep in (("uneven", ~some(model, 0.4) & model.exists), ("even", half)):
        if not said.opens:
            with pytest.raises(ng.NeuroglotError):
                ng.prune(model, keep, tmp_path / name)
            continue
        ng.prune(model, keep, tmp_path / name)
        with ng.intervene(model, Deactivate(~keep & model.exists)):
            expected = model.hidden_states(tokens)
        torch.testing.assert_close(ng.load_model(tmp_path / name).hidden_states(tokens), expected, rtol=1e-3, atol=1e-3)
        if name == "even" and "transformers" in said.opens:
            plain = ng.Model(AutoModelForCausalLM.from_pretrained(tmp_path / name), model.tokenizer)
            torch.testing.assert_close(plain.hidden_states(tokens), expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_model_that_was_saved_can_still_be_pruned(tmp_path):
    """Saving changes the configuration of Apertus, and another network with XLM's activation is in training mode."""
    for kind in ("apertus", "xlm"):
        model = opened(kind)
        model.save(tmp_path / f"{kind}-saved")
        keep = ~some(model, 0.4) & model.exists
        pruned = ng.load_model(ng.prune(model, keep, tmp_path / kind))
        assert pruned.widths == tuple(keep.sum(1).tolist())
        model.check_state()


@torch.no_grad()
def test_an_uneven_model_becomes_an_even_one(tmp_path):
    model = opened("llama")
    widths = torch.tensor([20, 16, 12])
    uneven = ng.load_model(ng.prune(model, torch.arange(24)[None] < widths[:, None], tmp_path / "uneven"))
    keep = (torch.arange(20)[None] < 8).expand(3, -1)
    even = ng.load_model(ng.prune(uneven, keep, tmp_path / "even"))
    assert even.widths == (8, 8, 8) and uneven.widths == (20, 16, 12)
    with ng.intervene(uneven, Deactivate(~keep & uneven.exists)):
        expected = uneven.hidden_states(every_type.TOKENS)
    torch.testing.assert_close(even.hidden_states(every_type.TOKENS), expected, rtol=1e-4, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "even")
    assert plain.config.intermediate_size == 8


@pytest.mark.parametrize("tied", [True, False])
def test_the_name_of_the_width_is_found_whether_or_not_the_head_is_the_embedding(tied):
    model = ng.Model(every_type.network("starcoder2", tie_word_embeddings=tied), tiny.tokenizer())
    assert width_name(model.network, model.ffns, 7) == "intermediate_size"
