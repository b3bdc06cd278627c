"""Perplexity against the whole logits, and the perplexity-change matrix."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.ablation.perturbation import perturb
from neuroglot.evaluate.likelihood.perplexity import block_losses, held_out_blocks, perplexity, token_losses
from neuroglot.evaluate.likelihood.perplexity import perplexity as module
from neuroglot.figures.words import findings
from neuroglot.stats import bootstrap_weights
from neuroglot.storage import sealed
from neuroglot.tokens.packing import pack


def by_brute_force(model, corpus, block):
    result = {}
    for tag in corpus.languages:
        blocks = pack(model, corpus[tag], tag, block=block, tokens=10**6).long()
        with torch.no_grad():
            logits = model.network(blocks).logits.double()
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), blocks[:, 1:].flatten(), reduction="none"
        )
        result[tag] = math.exp(losses.mean().item())
    return result


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "bloom", "cohere"])
def test_equals_the_whole_logits(family, bos, monkeypatch):
    import sys

    # a few tokens at a time, the last piece smaller than the others
    monkeypatch.setattr(sys.modules["neuroglot.evaluate.likelihood.perplexity"], "LOGITS_AT_ONCE", 7 * tiny.VOCABULARY)
    model, corpus = tiny.model(family, bos=bos), tiny.corpus()
    measured = perplexity(model, corpus, block=16, batch_tokens=40, progress=False)
    assert measured == pytest.approx(by_brute_force(model, corpus, 16), rel=1e-4)


def test_never_holds_the_logits_of_a_block():
    """What must not happen: a tensor of block × vocabulary."""
    import sys

    assert callable(module)
    evaluate = sys.modules["neuroglot.evaluate.likelihood.perplexity"]
    model, corpus = tiny.model(), tiny.corpus()
    sizes = []
    model.network.get_output_embeddings().register_forward_hook(lambda _, __, out: sizes.append(out.shape[0]))
    old, evaluate.LOGITS_AT_ONCE = evaluate.LOGITS_AT_ONCE, 5 * tiny.VOCABULARY
    try:
        perplexity(model, corpus, block=32, progress=False)
    finally:
        evaluate.LOGITS_AT_ONCE = old
    assert max(sizes) == 5


def test_the_block_is_chosen_to_fit():
    model, corpus = tiny.model(), tiny.corpus(4)  # the shortest language has about 200 tokens
    assert perturb(model, corpus, none(model), seeds=1, progress=False).block == 32
    with pytest.raises(ng.NeuroglotError, match="too few for one block of 32"):
        perplexity(model, ng.Corpus({"en": ["too short"]}), progress=False)


def test_logits_that_are_not_numbers_are_refused():
    model = tiny.model()
    with torch.no_grad():
        model.network.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(ng.NeuroglotError, match="logits that are not numbers"):
        perplexity(model, tiny.corpus(), progress=False)


def none(model) -> ng.NeuronSet:
    return ng.NeuronSet(torch.zeros(2, model.layers, model.neurons, dtype=torch.bool), ["en", "fr"])


def some(model) -> ng.NeuronSet:
    mask = torch.zeros(2, model.layers, model.neurons, dtype=torch.bool)
    mask[0, 1, :9] = True
    mask[1, 2, 4:8] = True
    return ng.NeuronSet(mask, ["en", "fr"])


def test_perturb_is_perplexity_under_intervention():
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    result = perturb(model, corpus, neurons, block=16, seeds=2, progress=False)
    assert result.intact == perplexity(model, corpus, block=16, progress=False)
    for tag in ("en", "fr"):
        with ng.intervene(model, ng.Deactivate(neurons[tag])):
            off = perplexity(model, corpus, block=16, progress=False)
        assert result.off[tag] == off
        assert result.change.loc[tag].to_dict() == pytest.approx({k: off[k] / result.intact[k] - 1 for k in off})
    assert list(result.random) == ["0", "1"]
    assert result.sizes == {"en": 9, "fr": 4, "random": 9}
    change = [[result.random[s][k] / result.intact[k] - 1 for s in result.random] for k in result.intact]
    assert result.random_change.loc["mean"].tolist() == pytest.approx([sum(c) / 2 for c in change])
    assert result.random_change.loc["std"].tolist() == pytest.approx([abs(a - b) / math.sqrt(2) for a, b in change])
    table = result.table()
    assert len(table) == (1 + 2 + 2) * 3
    assert set(table["off"]) == {"intact", "en", "fr", "random"}


def test_matched_rows_are_random_neurons_of_each_languages_own_number():
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    result = perturb(model, corpus, neurons, block=16, seeds=2, matched=True, progress=False)
    assert result.random == perturb(model, corpus, neurons, block=16, seeds=2, progress=False).random
    for seed in (0, 1):
        drawn = ng.identify.random(neurons, seed=seed)
        assert drawn.sizes() == neurons.sizes()
        for tag in neurons.languages:
            with ng.intervene(model, ng.Deactivate(drawn[tag])):
                off = perplexity(model, corpus.select([tag]), block=16, progress=False)[tag]
            assert result.matched[str(seed)][tag] == off
    change = [result.matched[s]["fr"] / result.intact["fr"] - 1 for s in ("0", "1")]
    assert result.matched_change.loc["mean", "fr"] == pytest.approx(sum(change) / 2)
    rows = result.table().query("off == 'matched' and measured == 'fr'")
    assert rows["neurons"].tolist() == [4, 4]


def test_every_cell_has_the_interval_of_its_blocks(tmp_path, monkeypatch):
    """By a plain bootstrap of one cell, with the same draws; a run of an earlier version opens and has none."""
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    result = perturb(model, corpus, neurons, block=16, seeds=2, matched=True, progress=False)
    table = result.frame()
    assert table[table["off"] != "intact"][["low", "high"]].notna().all(axis=None)
    with ng.intervene(model, ng.Deactivate(neurons["fr"])):
        off = block_losses(model, corpus.select(["fr"]), block=16, progress=False)
    intact = block_losses(model, corpus.select(["fr"]), block=16, progress=False)
    change = (off["nats"] - intact["nats"]).to_numpy()
    assert result.nats("fr", "fr") == pytest.approx(change.tolist())
    draws = bootstrap_weights(len(change), 2_000, 0)[1:].numpy() @ change / len(change)
    expected = np.expm1(np.quantile(draws, (0.025, 0.975), method="nearest"))
    assert result.interval("off", "fr", "fr") == pytest.approx(tuple(expected), abs=1e-6)
    row = table[(table["off"] == "fr") & (table["measured"] == "fr")].iloc[0]
    assert (row.low, row.high) == pytest.approx(result.interval("off", "fr", "fr"))
    assert row.low <= row.change <= row.high
    random = np.mean([result.nats(seed, "fr", "matched") for seed in ("0", "1")], 0)
    assert result.on_target.loc["fr", "above"] == pytest.approx((change - random).mean())
    earlier = {name: value for name, value in vars(result).items() if name != "losses"}
    (tmp_path / "earlier.json").write_text(json.dumps(earlier))
    monkeypatch.setattr(sealed, "_noted", set())
    with pytest.warns(ng.NeuroglotWarning, match="without a digest"):
        opened = Perturbation.load(tmp_path / "earlier.json")
    assert opened.change.equals(result.change) and opened.frame()[["low", "high"]].isna().all(axis=None)
    with pytest.raises(ng.NeuroglotError, match="earlier version measured this and kept no losses"):
        opened.contrast("fr", "fr", "en")


def test_one_block_has_no_interval_and_one_seed_no_deviation():
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    result = perturb(model, corpus, neurons, tokens=16, block=16, seeds=1, progress=False)
    assert len(result.nats("fr", "fr")) == 1
    assert result.frame()[["low", "high"]].isna().all(axis=None)
    own = result.on_target
    assert own["random"].notna().all() and own[["low", "high", "random_std", "above_low", "above_high"]].isna().all(
        axis=None
    )
    found = result.contrast("fr", "fr", "en")
    assert math.isfinite(found.difference) and math.isnan(found.p) and math.isnan(found.low)
    said = " ".join(findings(result))
    assert "not known" in said and "standard deviation" not in said and "above the" not in said


def test_losses_of_blocks_and_tokens_are_those_of_perplexity():
    model, corpus = tiny.model(), tiny.corpus()
    expected = perplexity(model, corpus, block=16, progress=False)
    blocks = block_losses(model, corpus, block=16, progress=False)
    tokens = token_losses(model, corpus, tokens=100_000, block=16, progress=False)
    assert blocks.groupby("language").nats.mean().map(math.exp).to_dict() == pytest.approx(expected)
    assert tokens.groupby("language").nats.mean().map(math.exp).to_dict() == pytest.approx(expected)
    one = tokens.groupby(["language", "block"], sort=False).nats.mean().reset_index()
    pd.testing.assert_frame_equal(one, blocks[["language", "block", "nats"]], check_dtype=False)
    place = tokens[(tokens.language == "fr") & (tokens.block == 1)]
    piece = held_out_blocks(model, corpus, tokens=100_000, block=16)["fr"][1:2].long()
    with torch.no_grad():
        logits = model.network(piece).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits.float(), piece[0, 1:], reduction="none")
    assert (
        place.nats.tolist() == pytest.approx(nats.tolist(), rel=1e-4) and place.token.tolist() == piece[0, 1:].tolist()
    )
    assert place.position.tolist() == list(range(1, 16))


def test_nothing_off_changes_nothing():
    model = tiny.model()
    result = perturb(model, tiny.corpus(), none(model), block=16, seeds=1, progress=False)
    assert (result.change == 0).all().all()


def test_leads():
    result = Perturbation(
        intact={"en": 10.0, "fr": 10.0},
        off={"en": {"en": 11.0, "fr": 12.0}, "fr": {"en": 10.0, "fr": 30.0}},
        random={"0": {"en": 10.1, "fr": 10.2}},
        sizes={"en": 1, "fr": 1, "random": 1},
        tokens={"en": 1, "fr": 1},
        block=2,
    )
    assert result.diagonal_dominant.to_dict() == {"en": False, "fr": True}


def test_an_interrupted_perturbation_goes_on(tmp_path, monkeypatch):
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    path = tmp_path / "p.json"
    whole = perturb(model, corpus, neurons, block=16, seeds=1, progress=False)
    save, rows = Perturbation.save, []

    def stop(self, path):
        save(self, path)
        rows.append(1)
        if len(rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Perturbation, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        perturb(model, corpus, neurons, block=16, seeds=1, resume=path, progress=False)
    monkeypatch.setattr(Perturbation, "save", save)
    passes = []
    body = ng.Model.hidden_states
    monkeypatch.setattr(ng.Model, "hidden_states", lambda self, *args: passes.append(1) or body(self, *args))
    resumed = perturb(model, corpus, neurons, block=16, seeds=1, resume=path, progress=False)
    assert vars(resumed) == vars(whole) == vars(Perturbation.load(path))
    assert 0 < len(passes) < 4 * 3 * 2
    with pytest.raises(ng.NeuroglotError, match=r"other settings: neurons \(was \w{8}…, now \w{8}…\)"):
        perturb(model, corpus, none(model), block=16, seeds=1, resume=path, progress=False)


def test_the_intact_row_of_other_neurons_on_the_same_text_is_taken(tmp_path, monkeypatch):
    model, corpus, neurons = tiny.model(), tiny.corpus(), some(tiny.model())
    how = {"block": 16, "seeds": 1, "progress": False}
    files = [tmp_path / name for name in ("missing.json", "broken.json", "other.json", "first.json")]
    files[1].write_text("{")
    perturb(model, corpus, none(model), resume=files[2], **{**how, "block": 8})  # of other blocks
    perturb(model, corpus, none(model), resume=files[3], **how)
    whole = perturb(model, corpus, neurons, **how)
    passes = []
    body = ng.Model.hidden_states
    monkeypatch.setattr(ng.Model, "hidden_states", lambda self, *args: passes.append(1) or body(self, *args))
    for beside, rows in ((files[:3], 4), (files, 3)):
        passes.clear()
        assert vars(perturb(model, corpus, neurons, beside=beside, **how)) == vars(whole)
        assert len(passes) == rows * len(corpus.languages)
    perturb(tiny.model(seed=1), corpus, neurons, beside=files, **how)  # another model
    assert len(passes) >= (3 + 4) * len(corpus.languages)


def test_masks_of_another_model_are_refused():
    model = tiny.model()
    wrong = torch.zeros(3, 25, dtype=torch.bool)
    with (
        pytest.raises(ng.NeuroglotError, match=r"3 × 25 neurons, but this one has 3 × 24"),
        ng.intervene(model, ng.Deactivate(wrong)),
    ):
        pass
    with (
        shapes.unchecked(),
        pytest.raises(ng.NeuroglotError, match="boolean tensor"),
        ng.intervene(model, ng.Deactivate(wrong.float())),
    ):
        pass
    with shapes.unchecked(), pytest.raises(ng.NeuroglotError, match="are a NeuronSet, and not a Tensor"):
        ng.evaluate.perturb(model, tiny.corpus(), wrong, progress=False)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt", "bloom", "gemma3_text"])
def test_baked_equals_hooked(tmp_path, family):
    from transformers import AutoModelForCausalLM

    model = tiny.model(family)
    chosen = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(3)) < 0.4
    tokens = torch.randint(0, 256, (2, 9))
    before = model.fingerprint
    path = ng.bake(model, chosen, tmp_path / "baked")
    with torch.no_grad(), ng.intervene(model, ng.Deactivate(chosen)):
        hooked = model.network(tokens).logits
    for opened in (ng.load_model(path).network, AutoModelForCausalLM.from_pretrained(path).eval()):
        with torch.no_grad():
            torch.testing.assert_close(opened(tokens).logits, hooked, rtol=1e-5, atol=1e-5)
    model.weights_changed()
    assert model.fingerprint == before
    assert ng.bake(model, chosen, path) == path  # it is just this one
    with pytest.raises(ng.NeuroglotError, match="exists"):
        ng.bake(model, ~chosen, path)
    with pytest.raises(ng.NeuroglotError, match="these neurons|These neurons"):
        ng.bake(model, chosen[:2], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_model_in_training_mode_is_not_measured():
    model = tiny.model()
    model.network.train()
    corpus = ng.Corpus({"en": ["a text of some words, long enough to be cut into blocks of bytes"] * 4})
    with pytest.raises(ng.NeuroglotError, match="eval"):
        ng.evaluate.perplexity(model, corpus, block=32, tokens=128)


@pytest.mark.parametrize("shape", [(0, 16), (3, 1), (0, 0)])
def test_text_without_anything_to_predict_is_not_blamed_on_the_model(model, shape):
    from neuroglot.evaluate.likelihood.perplexity import block_nll, mean_nll
    from neuroglot.evaluate.likelihood.sample_perplexity import mean_sample_nll

    blocks = torch.zeros(shape, dtype=torch.int32)
    for measure in (mean_nll, block_nll):
        with pytest.raises(ng.NeuroglotError, match="text in fr has no token that follows another"):
            measure(model, blocks, "fr")
    with pytest.raises(ng.NeuroglotError, match="text in fr has no token that follows another"):
        mean_sample_nll(model, [], "fr")
