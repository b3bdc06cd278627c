"""By hand: shares of answers in the target, amplified less intact."""

import pytest

import neuroglot as ng
from neuroglot.evaluate.steering import amplification as module
from neuroglot.generation.engine import generate
from neuroglot.generation.settings import Generation
from neuroglot.languages.detection import LanguageIdentifier

PROMPTS = {"en": ["the cats sat", "a dog"], "fr": ["çà et là", "un été"], "ru": ["всё хорошо"]}


def test_shares_by_hand(model, neurons, monkeypatch):
    class Stub(LanguageIdentifier):  # the first letter's case decides, which random weights write often enough
        def __init__(self, languages):
            self.languages = languages

        def __call__(self, text):
            return None if not text else ("ru" if ord(text[0]) % 2 else "fr")

    monkeypatch.setattr(module, "LanguageIdentifier", Stub)
    short = Generation(tokens=4)
    table = ng.evaluate.amplification(
        model, neurons, PROMPTS, targets=["ru", "fr"], factors=(1.0, 8.0), generation=short, progress=False
    ).set_index(["target", "factor"])
    detect = Stub([])
    for target in ("ru", "fr"):
        texts = [text for tag, some in PROMPTS.items() if tag != target for text in some]
        for factor in (1.0, 8.0):
            before = generate(model, texts, **short.model_dump())
            with ng.intervene(model, ng.Scale(neurons[target], factor)):
                after = generate(model, texts, **short.model_dump())
            shares = [sum(detect(text) == target for text in some) / len(texts) for some in (before, after)]
            row = table.loc[(target, factor)]
            assert (row.intact, row.amplified) == tuple(shares) and row.answers == len(texts)
            assert row.gain == pytest.approx(shares[1] - shares[0])
    assert (table.xs(1.0, level="factor").gain == 0).all()  # times one is nothing
    with pytest.raises(ng.NeuroglotError, match="no prompt in another language"):
        ng.evaluate.amplification(model, neurons, {"ru": ["раз"]}, targets=["ru"], progress=False)
