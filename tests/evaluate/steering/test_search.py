"""The search: what it tries, how it halves, what it reports; against rates that the test says."""

import pandas as pd
import pytest
import shapes

import neuroglot as ng
from neuroglot.evaluate.steering.candidates import Candidate, alignment_layers, candidates, grid
from neuroglot.evaluate.steering.forcing import Forcing, Steering
from neuroglot.evaluate.steering.search import _answers, _plan, search
from neuroglot.generation.settings import Generation

PROMPTS = {"en": ["the cats sat", "a dog"], "fr": ["çà et là", "un été"], "ru": ["всё хорошо", "раз"]}
ASKED = {"es": [f"s{i}" for i in range(16)], "zh": [f"z{i}" for i in range(16)]}


@pytest.fixture
def says(monkeypatch):
    """A stand-in for the model: what a strength is worth is said, as (share of answers on target, nats a token)."""
    worth: dict[float, tuple[float, float]] = {}
    asked: list[tuple[str, str, tuple[str, ...]]] = []

    def answers(self, cells):
        rows = []
        for cell in cells:
            asked.append((cell.name, cell.condition, tuple(cell.prompts)))
            share, nats = worth[cell.how.strength] if cell.condition != "intact" else (0.0, 2.3)
            for prompt in cell.prompts:
                on = prompt[1:].isdecimal() and int(prompt[1:]) < share * 16
                rows.append({"condition": cell.name, "source": cell.source, "target": cell.target, "prompt": prompt,
                             "answer": "a", "language": cell.target if on else cell.source, "on_target": on,
                             "degenerate": False, "mixed_script": False, "mixed_words": False, "refusal": False,
                             "nll": nats, "tokens": 1})  # fmt: skip
        return pd.DataFrame(rows)

    monkeypatch.setattr(Forcing, "__init__", lambda self, *_, **__: setattr(self, "progress", False))
    monkeypatch.setattr(Forcing, "answers", answers)
    return worth, asked


@shapes.unchecked()  # no model is asked
def test_the_best_within_bounds_is_chosen(says):
    """The most accurate setting is not fluent; the next is, and is reported on the rest."""
    worth, asked = says
    worth |= {1.0: (0.1, 2.0), 2.0: (0.2, 2.5), 3.0: (0.4, 2.9), 4.0: (1.0, 9.0)}
    settings = [Steering(strength=strength) for strength in worth]
    prompts = {tag: texts[:8] for tag, texts in ASKED.items()}
    found = search(None, None, None, prompts, settings, targets=["zh"], sources=["es"], max_loss=1.0)
    assert found.chosen == Candidate(settings[2]) and found.families == {"replace, source off": found.chosen}
    table = found.table
    assert list(table["within"][:4]) == [True, True, True, False]
    assert list(table["setting"][-3:]) == [found.chosen.words(), "intact", "native"]
    assert list(table["half"]) == ["development"] * 4 + ["reported"] * 3
    assert {texts for name, _, texts in asked if name in ("intact", "replace, source off")} == {
        ("s1", "s3", "s5", "s7")
    }
    found = search(None, None, None, prompts, settings[3:], targets=["zh"], sources=["es"])
    assert found.chosen.how.strength == 4.0 and not found.table["within"].iloc[0]  # nothing holds, and it says so


@shapes.unchecked()
def test_halving_keeps_the_better_half_of_each_family_and_asks_nothing_twice(says):
    worth, asked = says
    worth |= {s: (s / 10, 2.5 - s / 100) for s in (0.5, *map(float, range(1, 9)))}  # the stronger the better
    strong = [Candidate(Steering(strength=float(s)), "raised") for s in range(1, 9)]
    weak = [Candidate(Steering(method="diffmean", strength=0.5), "raised", "I")]
    found = search(
        None, None, None, ASKED, [*strong, *weak], targets=["zh"], sources=["es"], more={"es": ["more"]}, budget=30,
    )  # fmt: skip
    assert found.chosen == strong[-1] and set(found.families) == {"replace", "diffmean + prompting I"}
    develop = found.table[found.table["half"] == "development"]
    assert list(develop.groupby("rung").size()) == [9, 5, 3, 2]  # 8 and 1, 4 and 1, 2 and 1, 1 and 1
    assert list(develop.groupby("rung")["answers"].max()) == [1, 2, 4, 8]
    tries = [(name, text) for name, condition, texts in asked if condition == "raised" for text in texts]
    assert len(tries) == len(set(tries))
    on_half = [pair for pair in tries if pair[1] in ASKED["es"][::2]]
    assert len(on_half) == 9 + 5 + 3 * 2 + 2 * 4 == _answers({"a": 8, "b": 1}, 1, 8, 1)
    reported = found.table[found.table["half"] == "reported"].set_index("family")
    assert reported.loc["replace", "answers"] == 9 and reported.loc["replace", "lfs"] == pytest.approx(6 / 9)
    assert reported.loc["replace", "lfs_low"] < 6 / 9 < reported.loc["replace", "lfs_high"]
    assert not reported.loc["diffmean + prompting I", "single"] and reported.loc["replace", "single"]


def test_a_plan_keeps_to_its_budget():
    tried = [Candidate(Steering(strength=float(s)), "raised", p) for p in ("none", "I") for s in range(1, 11)]
    sizes = {"a": 10, "b": 10}
    for budget in (24, 60, 100, 400, 10_000):
        kept, shares = _plan(tried, 12, 1, budget, 0)
        left = {"a": sum(c.prompting == "none" for c in kept), "b": sum(c.prompting == "I" for c in kept)}
        assert shares[-1] == 12 and _answers(left, shares[0], 12, 1) <= budget and min(left.values()) >= 1
        assert (left == sizes) == (_answers(sizes, 1, 12, 1) <= budget)
    assert _plan(tried, 12, 1, 10_000, 0)[1] == _plan(tried, 12, 1, None, 0)[1] == [12]
    with pytest.raises(ng.NeuroglotError, match="give 24, or fewer"):
        _plan(tried, 12, 1, 23, 0)


def test_what_is_tried_by_default():
    tried = candidates(12, a_priori=(5,), strengths=(1.0,), conditions=("raised",))
    assert len(set(tried)) == len(tried)
    families = {each.family for each in tried}
    assert {"prompting I", "raise", "replace + prompting II", "diffmean", "sparse + prompting I"} <= families
    assert {"raise + diffmean", "raise + diffmean + prompting II"} <= families and "intact" not in families
    assert {each.how.layers for each in tried if each.family == "diffmean"} == {(3,), (5,), (6,), (9,), (4, 5, 6, 7)}
    assert {each.family for each in tried if each.single} == {
        "prompting I", "prompting II", "raise", "replace", "diffmean", "sparse"
    }  # fmt: skip
    assert len(grid(3, methods=("replace", "scale"), sites=("hidden",), strengths=(1.0,))) == 4
    assert "layer 4" in Candidate(Steering(method="diffmean", layers=(3,))).words()


def test_search_runs(model, recording, neurons, tmp_path):
    settings = [*grid(model.layers, methods=("replace",), sites=("hidden",), strengths=(1.0,)),
                Candidate(condition="intact", prompting="II")]  # fmt: skip
    rule = ng.evaluate.LikelihoodRule(model, {tag: [*texts, "and so on"] for tag, texts in PROMPTS.items()})
    asked = {"generation": Generation(tokens=6), "directory": tmp_path, "progress": False, "relevance": rule}
    found = search(model, recording, neurons, PROMPTS, settings, **asked)
    assert len(found.table) == 3 + 4 and set(found.families) == {"replace, source off", "prompting II"}
    assert {"lfs", "relevance", "steering_score", "steering_score_low"} <= set(found.table.columns)
    pd.testing.assert_frame_equal(search(model, recording, neurons, PROMPTS, settings, **asked).table, found.table)


def test_layers_known_beforehand_are_the_peaks(samples_of_layers):
    scores = ng.alignment.by_layer(samples_of_layers, draws=0)
    peaks = {int(scores[name].idxmax()) - 1 for name in ("sads", "lrds")}
    assert set(alignment_layers(samples_of_layers)) == peaks


@pytest.fixture
def samples_of_layers():
    import torch

    vectors = torch.rand(3, 6, 12, generator=torch.Generator().manual_seed(2))
    return ng.Samples.from_vectors(vectors, ["en", "fr", "zh"], layers=3)


def test_search_refuses(model, recording, neurons):
    for prompts, targets, why in (
        ({"en": ["a", "b"]}, ["ru"], "prompts in ru too"),
        ({"en": ["a"], "ru": ["b"]}, ["ru"], "at least two in each"),
        ({"ru": ["a", "b"]}, ["ru"], "between languages"),
    ):
        with pytest.raises(ng.NeuroglotError, match=why):
            search(model, recording, neurons, prompts, [Steering()], targets=targets)
    with pytest.raises(ng.NeuroglotError, match="no setting"):
        search(model, recording, neurons, PROMPTS, [])
