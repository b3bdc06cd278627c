"""`neuroglot tune` with plain text, some neurons, a teacher."""

import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.pruning.vocabulary import with_tokens_of

SHORT = ["--batch", 4, "--at-once", 2, "--learning-rate", 0.01, "--schedule", "cosine", "--warm-up", 0.1, "--block", 32,
         "--tokens", 300, "--epochs", 1]  # fmt: skip


def test_only_neurons_on_plain_text_with_a_teacher(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    model = ng.load_model(checkpoint)
    mask = torch.zeros(2, model.layers, model.neurons, dtype=torch.bool)
    mask[0, 1, :5] = True
    ng.NeuronSet(mask, ["fr", "en"]).save(tmp_path / "n.safetensors")
    how = ["tune", checkpoint, "--text", corpus, "--only", tmp_path / "n.safetensors", *SHORT]
    neuroglot(*how, "--teacher", checkpoint, "--languages", "fr", "--out", tmp_path / "out")
    assert "shards" not in capsys.readouterr().err  # a bar of the trainer, which saves each epoch
    after = ng.load_model(tmp_path / "out" / "fr")
    for layer, (one, other) in enumerate(zip(model.ffns, after.ffns, strict=True)):
        moved = (one.up_rows != other.up_rows).any(1)
        assert torch.equal(moved, mask[0, layer])
    assert "No neuron is said to be en's" in refused(
        monkeypatch, capsys, *how, "--languages", "en", "--out", tmp_path / "x"
    )
    assert "--only or --adapter" in refused(monkeypatch, capsys, *how, "--adapter", 2)
    assert "nothing does not exist; give the neurons" in refused(
        monkeypatch, capsys, "tune", checkpoint, "--only", tmp_path / "nothing"
    )
    assert "schedule" in refused(monkeypatch, capsys, "tune", checkpoint, "--schedule", "step")
    assert not (tmp_path / "x").exists()


def test_a_teacher_keeps_the_tokens_of_its_student():
    model = tiny.model()
    more = tiny.tokenizer()
    more.add_tokens(["zz"])
    other = ng.Model(tiny.network(vocab_size=tiny.VOCABULARY + 1), more)
    with with_tokens_of(model, tiny.model()) as same:
        assert same.vocabulary == model.vocabulary
    with pytest.raises(ng.NeuroglotError, match="was not made of"), with_tokens_of(model, other):
        pass
