"""The lens: the last layer is the model, the sums are those of the whole logits, and owners follow the rule."""

from dataclasses import replace

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.evaluate.likelihood.lens import Lens, lens
from neuroglot.evaluate.likelihood.perplexity import block_losses, held_out_blocks
from neuroglot.figures.lens import _ranges, lens_findings
from neuroglot.models.architecture.readout import Readout
from neuroglot.tokens.counts import SHARED, UNSEEN, TokenLanguages, token_counts


def owners(model, corpus):
    return TokenLanguages.of(token_counts(model, corpus, 1000), corpus.languages)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "bloom", "cohere", "falcon"])
def test_the_last_layer_is_the_model(family):
    """OPT projects after its stack, Gemma caps its logits, Falcon's layers give several things."""
    model, corpus = tiny.model(family), tiny.corpus()
    tokens = held_out_blocks(model, corpus, tokens=100, block=16)["fr"].long()
    readout = Readout(model.network, model.ffns)
    with torch.no_grad():
        whole = model.network(tokens).logits
        outputs = readout.outputs(tokens)
        assert len(outputs) == 3
        torch.testing.assert_close(model.logits(readout.read(outputs[-1], tokens)), whole, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(model.logits(readout.read(outputs[0], tokens)), whole, atol=1e-2)
        torch.testing.assert_close(model.network(tokens).logits, whole)  # the network is as it was
    found = lens(model, corpus, owners(model, corpus), tokens=300, block=16, progress=False)
    losses = block_losses(model, corpus, tokens=300, block=16, progress=False)
    for tag in corpus.languages:
        assert found.nats[tag][:, -1].tolist() == pytest.approx(losses[losses.language == tag].nats.tolist(), rel=1e-3)


def test_every_number_is_that_of_the_whole_logits(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    tokens_of = owners(model, corpus)
    found = lens(model, corpus, tokens_of, tokens=200, block=16, top=3, batch_tokens=40, progress=False)
    blocks = held_out_blocks(model, corpus, tokens=200, block=16)["ru"].long()
    with torch.no_grad():
        states = model.network(blocks, output_hidden_states=True).hidden_states[1]
        chances = model.network.lm_head(model.network.model.norm(states))[:, :-1].double().softmax(-1)
    for k, owner in enumerate(tokens_of.owners):
        own = tokens_of.owner == k
        mass = chances[..., own].sum(-1).mean(1)
        assert found.mass["ru"][:, 0, k].tolist() == pytest.approx(mass.tolist(), abs=1e-5), owner
        top = own[chances.topk(3).indices].double().mean((1, 2))
        assert found.likeliest["ru"][:, 0, k].tolist() == pytest.approx(top.tolist())
        share = own[blocks[:, 1:]].double().mean()
        assert float(found.text["ru"][k]) == pytest.approx(float(share))
    entropy = -(chances * chances.log()).sum(-1).mean(1)
    assert found.entropy["ru"][:, 0].tolist() == pytest.approx(entropy.tolist(), rel=1e-4)

    frame, curve = found.frame(), found.curve()
    sums = frame.groupby(["language", "layer"])[["mass", "likeliest", "text"]].sum()
    assert sums.to_numpy() == pytest.approx(1)
    assert (frame.mass_low <= frame.mass).all() and (frame.mass <= frame.mass_high).all()
    own = frame[(frame.language == frame.tokens_of)].sort_values(["language", "layer"])
    assert curve.sort_values(["language", "layer"]).own.tolist() == own.mass.tolist()
    assert (curve.other != curve.language).all()
    again = Lens.load(found.save(tmp_path / "lens.safetensors"))
    assert again.frame().equals(frame) and again.about["top"] == 3


def test_whose_a_token_is():
    counts = torch.tensor([[8, 0], [4, 1], [3, 1], [1, 0], [0, 0], [84, 198]])
    found = TokenLanguages.of(counts, ("fr", "ru"), share=0.8, least=2)  # 100 and 200 tokens
    assert found.owner.tolist() == [0, 0, 0, 3, 3, 2]
    assert found.sizes() == {"fr": 3, "ru": 0, SHARED: 1, UNSEEN: 2}
    assert TokenLanguages.of(counts, ("fr", "ru"), share=0.9).owner.tolist() == [0, 2, 2, 3, 3, 2]
    with pytest.raises(ng.NeuroglotError, match="above 0.5"):
        TokenLanguages.of(counts, ("fr", "ru"), share=0.5)
    with pytest.raises(ng.NeuroglotError, match="no token of ru"):
        TokenLanguages.of(counts[:1], ("fr", "ru"))


def test_sentences_leave_out_layers_that_say_nothing():
    """English is ahead after layers 1 to 3; in the first, nearly all is on tokens that no text has."""
    owners = ("en", "fr", SHARED, UNSEEN)
    layers = [[0.1, 0.0, 0.0, 0.9], [0.4, 0.1, 0.0, 0.5], [0.5, 0.3, 0.0, 0.2], [0.2, 0.6, 0.1, 0.1]]
    mass = torch.tensor([layers] * 3, dtype=torch.float64)
    of_layer = torch.zeros(3, 4, dtype=torch.float64)
    found = Lens(("fr",), owners, {"fr": mass}, {"fr": mass}, {"fr": of_layer}, {"fr": of_layer}, {"fr": mass[0, 3]})
    ahead, left_out = lens_findings(found)
    assert ahead == (
        "Text in French: tokens of English are likelier than its own after layers 2 to 3, most so after layer 2 (40.0% "
        "against 10.0%); at the end they have 20.0% against 60.0%."
    )
    assert "layer 1, where more than 75%" in left_out
    nowhere = {"fr": torch.tensor([[[0.05, 0.0, 0.0, 0.95]] * 4] * 3, dtype=torch.float64)}
    (only,) = lens_findings(Lens(("fr",), owners, nowhere, nowhere, found.entropy, found.nats, found.text))
    assert only.startswith("Left out, for some or all texts: layers 1 to 4")
    one = {"fr": mass[:1]}
    ahead, unknown, _ = lens_findings(Lens(("fr",), owners, one, one, {"fr": of_layer}, {"fr": of_layer}, found.text))
    assert "likelier than its own after layers 2 to 3" in ahead and "No interval is known" in unknown
    alone = mass[..., 1:]
    one = replace(found, owners=owners[1:], mass={"fr": alone}, likeliest={"fr": alone}, text={"fr": alone[0, 3]})
    assert lens_findings(one)[0].startswith("Only text in French was counted, so every token")
    parts = ("mass", "likeliest", "entropy", "nats", "text")
    apart = replace(found, languages=("ru",), **{part: {"ru": getattr(found, part)["fr"]} for part in parts})
    assert lens_findings(apart) == ["Text in Russian: none in that language was counted, so no token is its own."]


def test_runs_of_layers_in_words():
    assert [_ranges(each) for each in ([2], [1, 2], [3, 4, 5, 8])] == [
        "layer 2",
        "layers 1 to 2",
        "layers 3 to 5 and 8",
    ]
