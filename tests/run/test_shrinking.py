"""`neuroglot shrink`: the size asked for, a model that opens, and a report that is true."""

import json
import math

import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.pruning.size import size
from neuroglot.run.shrinking import ShrinkSettings, shrink


@pytest.mark.parametrize(("heal", "even"), [(0, True), (2_000, False)])
def test_a_shrunk_model_has_the_size_and_the_bits_that_the_report_says(heal, even, tmp_path):
    model, text = tiny.model(), tiny.corpus(60)
    recorded, held_out = text.select(["fr"]).split()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    settings = ShrinkSettings(share=0.9, heal=heal, batch=2, block=64, even=even)
    done = shrink(model, recorded, "fr", settings, tmp_path / "fr", held_out=held_out, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    opened = ng.load_model(tmp_path / "fr")
    assert done.parameters == (size(model.network).parameters, size(opened.network).parameters)
    assert 0.85 < done.parameters[1] / done.parameters[0] <= 0.9
    assert list(done.bits) == ["intact", "vocabulary", "random", "magnitude", "refit", *(["healed"] if heal else [])]
    assert bits_per_character(opened, held_out["fr"], "fr") == pytest.approx(list(done.bits.values())[-1])
    assert not heal or done.bits["healed"] < done.bits["refit"]
    assert [file.name for file in tmp_path.iterdir()] == ["fr"]  # no draft is left
    assert len(set(opened.widths)) == 1 or not even
    assert bits_per_character(model, held_out["fr"], "fr") == pytest.approx(done.bits["intact"])
    assert done.bits["vocabulary"] <= done.bits["intact"] + 1e-6  # fewer tokens to choose from, none of the text's
    assert done.tokenised.changed == done.tokenised.lost == 0
    said = json.loads((tmp_path / "fr" / "neuroglot_shrink.json").read_text())
    assert said["recipe"]["language"] == "fr"
    assert said["bits"] == pytest.approx(done.bits)


def test_bits_are_the_likelihood_of_every_token_over_characters():
    model = tiny.model()
    texts = ["été à la mer", "ça va"]
    (ids,) = model.encode(["\n".join(texts)])
    tokens = torch.tensor([[*model.begin, *ids]])
    with torch.no_grad():
        logits = model.network(tokens).logits.double().log_softmax(-1)
    nats = -float(logits[0, :-1].gather(1, tokens[0, 1:, None]).sum())
    wanted = nats / math.log(2) / len("\n".join(texts))
    assert bits_per_character(model, texts, "fr") == pytest.approx(wanted, rel=1e-4)
    whole = bits_per_character(model, texts * 9, "fr", block=16)  # full blocks and a rest
    assert math.isfinite(whole)
    with pytest.raises(ng.NeuroglotError, match="nothing to predict"):
        bits_per_character(model, [], "fr")


def test_the_command(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    path = tmp_path / "out"
    said = neuroglot("shrink", checkpoint, "--language", "fr", "--text", corpus, "--size", "95%", "--out", path)
    assert "bits a character" in said
    assert "cut into other tokens: 0 of 12" in said
    assert ng.load_model(path).vocabulary == tiny.VOCABULARY
    how = ["shrink", checkpoint, "--language", "fr", "--text", corpus, "--out"]
    assert "exists" in refused(monkeypatch, capsys, *how, path)
    assert "what must stay" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--size", "10%")
    for size_ in ("0", "100%", "half"):
        assert "--size" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--size", size_)
    assert "de" in refused(monkeypatch, capsys, "shrink", checkpoint, "--language", "de", "--text", corpus,
                           "--out", tmp_path / "x")  # fmt: skip
    assert not (tmp_path / "x").exists()
