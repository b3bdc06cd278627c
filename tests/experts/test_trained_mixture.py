"""A tiny OLMoE trained on the starter corpus: a language's experts, switched off, beside as many random ones."""

import sys
from pathlib import Path

import pytest

import neuroglot as ng

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_a_languages_experts_hurt_it_more_than_random_ones(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "train_tiny")
    import routed
    import train

    recorded, held_out = ng.load_corpus("starter").select(["en", "zh", "hi", "ar"]).split(5)
    model = train.train(
        recorded, vocabulary=258, width=64, layers=2, neurons=256, experts=8, batch=8, length=96, steps=150,
        rate=4e-3, translated=0.0, say=False,
    )  # fmt: skip
    for name in ("routed", "train"):
        sys.modules.pop(name)
    table = routed.measured(model, recorded, held_out, tokens=1500)
    own = sum(table.loc[tag, tag] for tag in table.columns)
    elsewhere = sum(table.loc[tag, other] for tag in table.columns for other in table.columns if tag != other) / 3
    assert own > elsewhere
    assert own > table.loc["random"].sum()
