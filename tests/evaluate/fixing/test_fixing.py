"""`fix`: what it tries, what it lets through and what it chooses; a writer stands in that knows what is in force."""

import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.drift import AddOnDrift
from neuroglot.edit.positions import prompt_length
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.fixing import trials
from neuroglot.evaluate.fixing.remedies import HeadRows
from neuroglot.tokens.counts import TokenLanguages, token_counts

FRENCH = "Le chat dort près de la fenêtre pendant que la pluie tombe."
ENGLISH = "The cat sleeps near the window while the rain falls."
PROMPTS = {"own": {"fr": [f"çà et là {i}" for i in range(8)]}}


class Writer:
    """Writes French where a remedy of the kind that helps is in force, and elsewhere to every third prompt."""

    def __init__(self, helps):
        self.helps, self.calls = helps, 0

    def __call__(self, model, prompts, recipes=None, **settings):
        self.calls += len(prompts)
        return [
            FRENCH if place % 3 == 0 or (recipe is not None and type(recipe.steps[0]) is self.helps) else ENGLISH
            for place, recipe in enumerate(recipes or [None] * len(prompts))
        ]


@pytest.fixture(scope="module")
def material():
    model, text = tiny.model(), tiny.corpus(40)
    recorded, held_out = text.split(5)
    recording = ng.record(model, recorded, tokens=600, block=32, statistics=("active", "residual"), progress=False)
    owners = TokenLanguages.of(token_counts(model, recorded, 600), recorded.languages)
    return model, recording, held_out, owners


def fixed(material, **settings):
    model, recording, held_out, owners = material
    settings = {"tokens": 200, "block": 32, "max_cost": 0.5, "progress": False} | settings
    return ng.evaluate.fix(model, recording, settings.pop("prompts", PROMPTS), held_out, owners, **settings)


@pytest.mark.parametrize(("helps", "method"), [(ng.Deactivate, "ablation"), (AddOnDrift, "drift")])
def test_what_helps_is_chosen_and_measured_on_the_other_half(material, monkeypatch, tmp_path, helps, method):
    writer = Writer(helps)
    monkeypatch.setattr(trials, "generate", writer)
    found = fixed(material, directory=tmp_path)
    assert found.avoided == ("en",) and found.slips["en"] == 0.5
    assert found.chosen.method == method and type(found.recipe.steps[0]) is helps
    before, after, rows = (found.reported(name) for name in ("intact", method, "head rows"))
    assert (before["line_pass_rate"], after["line_pass_rate"], rows["line_pass_rate"]) == (0.5, 1.0, 0.5)
    assert (before["slipped"], after["slipped"]) == (0.5, 0.0)
    assert set(found.table["method"]) == {"intact", "ablation", "direction", "drift", "head rows"}
    assert set(found.answers["condition"]) == {"intact", *found.best}
    made, model = writer.calls, material[0]
    again = fixed(material, directory=tmp_path)
    assert writer.calls == made  # answers are kept
    pd.testing.assert_frame_equal(again.table, found.table)
    plain = ng.evaluate.perplexity(model, material[2].select(["fr"]), tokens=200, block=32, progress=False)
    with found.chosen.applied(model), prompt_length(model, 0):
        changed = ng.evaluate.perplexity(model, material[2].select(["fr"]), tokens=200, block=32, progress=False)
    assert after["perplexity_change"] == pytest.approx(changed["fr"] / plain["fr"] - 1)


def test_what_costs_too_much_is_not_asked_and_nothing_is_chosen_where_nothing_helps(material, monkeypatch):
    writer = Writer(None)
    monkeypatch.setattr(trials, "generate", writer)
    found = fixed(material, max_cost=1e-9, methods=["ablation", "head rows"])
    assert found.chosen is None and found.recipe is None
    refused_rows = found.table[found.table["answers"] == 0]
    assert (refused_rows["perplexity_change"] > 1e-9).all() and not refused_rows["within"].any()
    assert fixed(material, methods=["direction"]).chosen is None


def test_answers_that_pass_need_no_remedy_and_silence_is_none(material, monkeypatch):
    monkeypatch.setattr(trials, "generate", lambda model, prompts, **more: [FRENCH] * len(prompts))
    found = fixed(material)
    assert found.chosen is None and found.best == {} and found.reported("intact")["line_pass_rate"] == 1
    quiet = lambda model, prompts, recipes=None, **more: [  # noqa: E731
        "" if recipe is not None and place % 8 > 1 else FRENCH if recipe or place % 2 else ENGLISH
        for place, recipe in enumerate(recipes or [None] * len(prompts))
    ]
    monkeypatch.setattr(trials, "generate", quiet)
    found = fixed(material, methods=["ablation"])
    assert found.chosen is None and not found.reported("ablation")["within"]
    monkeypatch.setattr(trials, "generate", lambda model, prompts, **more: ["oui"] * len(prompts))
    with pytest.raises(NeuroglotError, match="none can be judged"):
        fixed(material)


def test_rows_of_the_head_are_their_logits_times_the_factor():
    model = tiny.model()
    rows = HeadRows(torch.arange(model.vocabulary) % 3 == 0, 0.5)
    tokens = torch.tensor([[5, 9, 77]])
    with torch.no_grad():
        before = model.network(tokens).logits
        with rows.applied(model):
            after = model.network(tokens).logits
        torch.testing.assert_close(after, torch.where(rows.tokens, before / 2, before))
        torch.testing.assert_close(model.network(tokens).logits, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": {"own": {"fr": ["un"]}}}, "at least two prompts in fr"),
        ({"prompts": {}}, "There are no prompts"),
        ({"prompts": {"own": {"de": ["eins", "zwei"]}}}, "no recorded and held-out text in de"),
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"max_cost": 0.0}, "share above 0"),
    ],
)
def test_what_cannot_be_fixed_is_refused(material, settings, said):
    with pytest.raises(NeuroglotError, match=said):
        fixed(material, **settings)
