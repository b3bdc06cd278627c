"""Pruned models against masked ones, in every family; what they cost; the search for a budget."""

import json

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import neuroglot as ng
from neuroglot.pruning.size import largest_budget, size

TOKENS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))


def logits(network):
    with torch.no_grad():
        return network(TOKENS).logits


def chosen(model, even):
    keep = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(1)).argsort(1)
    limit = torch.full((model.layers, 1), 16) if even else torch.tensor([[5], [16], [model.neurons]])
    return keep < limit


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("even", [True, False])
def test_a_pruned_model_is_the_masked_one(family, even, tmp_path):
    model = tiny.model(family)
    keep = chosen(model, even)
    before, config = logits(model.network), model.network.config.to_dict() | {"architectures": None}
    with ng.intervene(model, ng.Deactivate(~keep)):
        masked = logits(model.network)
    path = ng.prune(model, keep, tmp_path / "pruned")
    assert torch.equal(logits(model.network), before)
    assert model.network.config.to_dict() | {"architectures": None} == config  # which transformers writes in
    assert model.widths == (model.neurons,) * 3

    opened = ng.load_model(path)
    assert opened.widths == tuple(keep.sum(1).tolist())
    torch.testing.assert_close(logits(opened.network), masked, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(masked, before, atol=1e-3)
    assert size(opened.network).parameters < size(model.network).parameters
    if even and family != "bloom":
        plain = AutoModelForCausalLM.from_pretrained(path)
        torch.testing.assert_close(logits(plain), masked, rtol=1e-4, atol=1e-4)
        assert "neuroglot_widths" not in json.loads((path / "config.json").read_text())


def test_a_model_of_unequal_layers_runs_and_is_recorded(tmp_path):
    model = tiny.model()
    opened = ng.load_model(ng.prune(model, chosen(model, False), tmp_path / "pruned"))
    assert set(ng.evaluate.perplexity(opened, tiny.corpus(), block=16, progress=False)) == {"en", "fr", "ru"}
    assert "5 to 24 neurons" in repr(opened)
    split = ng.experts.partition(opened, 4)
    assert ((split.labels >= 0) == opened.exists).all()
    recording = ng.record(opened, tiny.corpus(), partition=split, block=16, progress=False)
    assert recording.widths == opened.widths and not bool(recording.active[~opened.exists].any())
    found = ng.identify.lape(recording, top_fraction=0.2, activity_quantile=0.5)
    assert found.widths == opened.widths and not bool(found.mask[:, ~opened.exists].any())
    opened.network.save_pretrained(tmp_path / "again")
    opened.tokenizer.save_pretrained(tmp_path / "again")
    assert ng.load_model(tmp_path / "again").fingerprint == opened.fingerprint


def test_bad_input(tmp_path):
    model = tiny.model()
    keep = chosen(model, True)
    with pytest.raises(ng.NeuroglotError, match="2 × 24"):
        ng.prune(model, keep[:2], tmp_path / "x")
    keep[1] = False
    with pytest.raises(ng.NeuroglotError, match="layer 2"):
        ng.prune(model, keep, tmp_path / "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ng.NeuroglotError, match="exists"):
        ng.prune(model, chosen(model, True), tmp_path)


def test_the_cost_of_llama_2_7b():
    """The paper: thresholds that keep 73.41 % of the experts on average save about 18 % of the FLOPs (§4.5.1)."""
    settings = {
        "vocab_size": 32_000, "hidden_size": 4_096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32,
    }  # fmt: skip
    with torch.device("meta"):
        cost = size(AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings)))
    assert cost.parameters == 6_738_415_616
    assert cost.ffn_parameters == 32 * 3 * 4_096 * 11_008
    assert cost.flops == 2 * (cost.parameters - 32_000 * 4_096 - 65 * 4_096)
    saved = 2 * cost.ffn_parameters
    assert 0.25 * saved / cost.flops == pytest.approx(0.164, abs=0.001)
    assert (1 - 0.7341) * saved / cost.flops == pytest.approx(0.174, abs=0.001)
    assert (1 - 0.7341) * saved / cost.body_flops == pytest.approx(0.178, abs=0.001)


def test_the_search_for_a_budget():
    asked = []

    def measure(budget):
        asked.append(budget)
        return budget**2

    assert largest_budget(measure, 0.09, steps=12) == pytest.approx(0.3, abs=0.001)
    assert largest_budget(lambda budget: 1.0, 0.05) == 0
    assert all(0 < budget < 0.9 for budget in asked)
    with pytest.raises(ng.NeuroglotError, match="at least 0"):
        largest_budget(measure, -1)
