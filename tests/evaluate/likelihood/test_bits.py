"""Bits a character: the likelihood of every token, by piece of the text, whatever the tokenizer."""

import math

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.evaluate.likelihood.bits import bits_by_piece, bits_per_character
from neuroglot.stats import bootstrap_weights, ratio_interval


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


@pytest.mark.parametrize("bos", [True, False])
def test_each_piece_has_the_bits_of_its_own_tokens(bos):
    """By brute force: every block's logits, and the character at which every token begins (here a byte a token)."""
    tokenizer = tiny.tokenizer(bos=bos)
    model = ng.Model(tiny.network(vocab_size=len(tokenizer)), tokenizer)
    lines = [f"{number:04d} {'x' * (number % 37)}" for number in range(300)]
    found, length = bits_by_piece(model, lines, "en", block=32)
    text = "\n".join(lines)
    assert length == len(text)
    (ids,) = model.encode([text])
    assert len(ids) == len(text)  # a token a character
    ends = []
    while (ends[-1] if ends else 0) < len(text):  # a piece ends behind the last line break within 2,000 characters
        start = ends[-1] if ends else 0
        ends.append(text.rfind("\n", start, start + 2000) + 1 if len(text) - start > 2000 else len(text))
    wanted = torch.zeros(len(ends), dtype=torch.float64)
    room = 32 - len(model.begin)
    for start in range(0, len(ids), room):
        row = torch.tensor([[*model.begin, *ids[start : start + room]]])
        with torch.no_grad():
            logits = model.network(row).logits.double().log_softmax(-1)
        for place in range(1, row.shape[1]):
            at = start + place - len(model.begin)
            piece = sum(at >= end for end in ends)
            wanted[piece] -= float(logits[0, place - 1, row[0, place]]) / math.log(2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_interval_of_a_quotient_is_over_pairs():
    before = torch.tensor([1.0, 2.0, 5.0, 4.0])
    assert ratio_interval(3 * before, before) == pytest.approx((3.0, 3.0))  # however they are drawn
    after = torch.tensor([1.5, 2.0, 6.0, 3.0])
    low, high = ratio_interval(after, before, draws=400)
    drawn = sorted(
        float(
            sum(w * a for w, a in zip(row, after, strict=True)) / sum(w * b for w, b in zip(row, before, strict=True))
        )
        for row in bootstrap_weights(4, 400, 0)[1:].tolist()
    )
    assert drawn[5] < low < drawn[15] < float(after.sum() / before.sum()) < drawn[385] < high < drawn[395]
    assert all(math.isnan(end) for end in ratio_interval(after[:1], before[:1]))
