"""Pruned mixtures of experts against the same experts and neurons switched off."""

import json

import every_type
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import neuroglot as ng
from neuroglot.pruning.mixtures import expert_mask, save_ranking
from neuroglot.pruning.size import size

TOKENS = every_type.TOKENS
# a config has no word for narrower experts beside shared ones of the old width
NO_WORD = ("deepseek_v2", "glm4_moe", "llama4_text", "dots1", "aria_text")
KINDS = ("mixtral", "deepseek_v2")
MORE = ("gpt_oss", "qwen2_moe", "olmoe", "glm4_moe", "llama4_text", "nemotron_h", "aria_text", "dots1", "granitemoe")


def opened(kind):
    return ng.Model(every_type.network(kind), tiny.tokenizer())


def three_of_four(model, even=True):
    """Two or three experts a layer."""
    experts = torch.zeros(model.layers, 4, dtype=torch.bool)
    for layer in model.mixtures:
        left = 3 if even or layer % 2 else 2
        experts[layer, torch.randperm(4, generator=torch.Generator().manual_seed(layer))[:left]] = True
    return experts


@torch.no_grad()
def logits(network):
    return network(TOKENS).logits


def off(model, experts, mask):
    routers = torch.tensor([[layer in model.mixtures] for layer in range(model.layers)])
    return ng.DeactivateExperts(~experts & routers), ng.Deactivate(model.exists & ~mask)


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_a_pruned_mixture_is_the_one_with_experts_off(kind, tmp_path):
    model = opened(kind)
    before, config = logits(model.network), model.network.config.to_dict() | {"architectures": None}
    for number, (even, narrower) in enumerate([(True, False), (False, False), (True, True)]):
        experts = three_of_four(model, even)
        mask = expert_mask(model, experts)
        if narrower:
            for layer, mixture in model.mixtures.items():
                mask[layer, : mixture.experts * mixture.width].view(-1, 2)[:, 0] = False
        with ng.intervene(model, *off(model, experts, mask)):
            wanted = logits(model.network)
        path = ng.prune(model, mask if narrower else experts, tmp_path / str(number))
        assert torch.equal(logits(model.network), before)
        assert model.network.config.to_dict() | {"architectures": None} == config
        pruned = ng.load_model(path)
        torch.testing.assert_close(logits(pruned.network), wanted, rtol=1e-4, atol=1e-4)
        assert size(pruned.network).parameters < size(model.network).parameters
        for layer, mixture in model.mixtures.items():
            assert pruned.expert_sizes[layer] == (int(experts[layer].sum()), mixture.width // (2 if narrower else 1))
        said = "neuroglot_experts" in json.loads((path / "config.json").read_text())
        if even and not (narrower and kind in NO_WORD):
            assert not said
            plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-4)
        recording = ng.record(pruned, tiny.corpus(), tokens=200, block=32, progress=False)
        assert recording.widths == pruned.widths


def test_experts_of_different_widths_are_filled_up_with_neurons_that_do_nothing(tmp_path):
    model = opened("mixtral")
    keep = torch.ones(4, model.neurons, dtype=torch.bool)
    keep[:, 20:48] = False  # of the first expert 20 of 48 neurons stay, of the second 33
    keep[:, 48 + 33 : 96] = False
    keep[:, 96:] = False
    keep[:, 96:100] = True  # and 4 of the third
    with ng.intervene(model, *off(model, torch.tensor([[True] * 3 + [False]] * 4), keep)):
        wanted = logits(model.network)
    pruned = ng.load_model(ng.prune(model, keep, tmp_path / "pruned"))
    assert pruned.expert_sizes == ((3, 40),) * 4
    torch.testing.assert_close(logits(pruned.network), wanted, rtol=1e-4, atol=1e-4)
    recording = ng.record(pruned, tiny.corpus(), tokens=500, block=32, progress=False)
    filled = torch.cat([torch.arange(40) >= size for size in (20, 33, 4)])
    assert not bool(recording.active[:, filled].any())


def test_a_moefied_model_is_pruned(tmp_path):
    dense = tiny.model("gemma3_text", intermediate_size=32, layer_types=["full_attention"] * 3)
    path = ng.experts.moefy(dense, 4, 2, tmp_path / "moe", text=tiny.corpus(60), tokens=3000, progress=False)
    model = ng.load_model(path)
    experts = torch.tensor([[True, False, True, True]] * 3)
    pruned = ng.load_model(ng.prune(model, experts, tmp_path / "pruned"))
    with ng.intervene(model, ng.DeactivateExperts(~experts)):
        torch.testing.assert_close(logits(pruned.network), logits(model.network), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_pruned_is_refused_in_one_sentence(tmp_path):
    model = opened("deepseek_v3")
    path = tmp_path / "pruned"

    def refused(keep, **more):
        with pytest.raises(ng.NeuroglotError) as caught:
            ng.prune(model, keep, path, **more)
        assert not path.exists()
        return str(caught.value)

    experts = torch.zeros(4, 4, dtype=torch.bool)
    experts[:, 0] = True
    assert "1 of 4 experts would be left in layer 4, whose router chooses 2" in refused(experts)
    shared = model.exists.clone()
    shared[0, 0] = False
    assert "Layer 1 would lose neurons" in refused(shared)
    assert "4 layers × 4 experts" in refused(torch.ones(4, 5, dtype=torch.bool))
    for how in ("mean", "refit"):  # before what is missing for it
        assert "so its experts are pruned as they are; leave compensate out" in refused(model.exists, compensate=how)


def test_experts_and_tokens_that_a_language_does_without(tmp_path):
    model, corpus = opened("olmoe"), tiny.corpus()
    keep = three_of_four(model)
    made = ng.prune(model, keep, tmp_path / "french", text=corpus, language="fr", vocabulary=True)
    assert model.vocabulary == 300 and model.mixtures[0].experts == 4  # as it was
    pruned = ng.load_model(made)
    assert pruned.vocabulary < model.vocabulary and pruned.mixtures[0].experts == 3
    wanted = ng.load_model(ng.prune(model, keep, tmp_path / "experts"))
    text = next(iter(corpus["fr"]))[:60]
    states = [each.hidden_states(torch.tensor([each.tokenizer(text).input_ids])) for each in (pruned, wanted)]
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-4)


def test_a_ranking_is_a_line_a_layer(tmp_path):
    scores = torch.tensor([[0.1, 0.5, 0.5, 0.2], [0.0, 0.0, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1]])
    save_ranking(scores, tmp_path / "fr.jsonl", layers=[0, 2])
    lines = [json.loads(line) for line in (tmp_path / "fr.jsonl").read_text().splitlines()]
    assert lines == [{"0": [1, 2, 3, 0]}, {"2": [0, 1, 2, 3]}]
