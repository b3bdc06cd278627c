"""Language forcing: its cells, its matrix, its search, its repair."""

import json
import sys

import pandas as pd
import pytest
import shapes
import tiny

import neuroglot as ng
from neuroglot.evaluate.steering import forcing
from neuroglot.evaluate.steering.answers import describe
from neuroglot.evaluate.steering.forcing import Steering, deactivated, force
from neuroglot.evaluate.steering.search import grid, search
from neuroglot.evaluate.steering.tables import matrix, repair
from neuroglot.generation.engine import generate
from neuroglot.generation.settings import Generation
from neuroglot.languages.detection import LanguageIdentifier

PROMPTS = {"en": ["the cats sat", "a dog"], "fr": ["çà et là", "un été"], "ru": ["всё хорошо", "раз"]}
SHORT = Generation(tokens=6)


def run(model, recording, neurons, **more):
    return force(model, recording, neurons, PROMPTS, generation=SHORT, progress=False, **more)


def test_each_condition_by_hand(model, recording, neurons):
    how = Steering(method="difference", strength=3.0, site="hidden")
    table = run(model, recording, neurons, how=how, seeds=2)
    random = [ng.identify.random(neurons, seed=seed) for seed in (0, 1)]
    given = recording.language_difference("ru", "hidden")

    def steps(chosen, source):
        off = [ng.Deactivate(chosen[source] & ~chosen["ru"], site="hidden")] if source else []
        return [*off, ng.Add(chosen["ru"], given, 3.0, site="hidden")]

    by_hand = {
        ("intact", 0): [],
        ("source off", 0): [ng.Deactivate(neurons["fr"])],
        ("raised", 0): steps(neurons, None),
        ("both", 0): steps(neurons, "fr"),
        ("random", 0): steps(random[0], "fr"),
        ("random", 1): steps(random[1], "fr"),
    }
    for (condition, draw), interventions in by_hand.items():
        with ng.intervene(model, *interventions):
            written = generate(model, PROMPTS["fr"], **SHORT.model_dump())
        cell = table[
            (table["condition"] == condition)
            & (table["seed"] == draw)
            & (table["source"] == "fr")
            & (table["target"] == "ru")
        ]
        assert list(cell["answer"]) == written, condition
        expected = describe(model, written, "ru", LanguageIdentifier(["en", "fr", "ru"]))  # by the intact model
        assert list(cell["language"]) == list(expected["language"])
        assert cell["nll"].tolist() == pytest.approx(expected["nll"].tolist())
    assert len(table) == 6 * 9 * 2
    same = table.query("source == target and condition != 'random'").pivot(columns="condition", values="answer")
    assert set(same["both"].dropna()) == set(same["raised"].dropna())  # nothing to switch off


def test_random_has_the_same_numbers(recording, neurons):
    for seed in (0, 1):
        drawn = ng.identify.random(neurons, seed=seed)
        assert drawn.sizes() == neurons.sizes() and drawn != neurons


def test_finished_cells_cost_nothing(model, recording, neurons, tmp_path, monkeypatch):
    asked = {"directory": tmp_path, "conditions": ["intact", "raised"]}
    first = run(model, recording, neurons, **asked)
    calls = []
    monkeypatch.setattr(forcing, "generate", lambda *a, **k: calls.append(a) or generate(*a, **k))
    pd.testing.assert_frame_equal(
        run(model, recording, neurons, directory=tmp_path, conditions=["intact", "raised"]), first
    )
    assert not calls
    damaged = next(iter(tmp_path.glob("*.json")))
    damaged.write_text(damaged.read_text()[:30])
    pd.testing.assert_frame_equal(
        run(model, recording, neurons, directory=tmp_path, conditions=["intact", "raised"]), first
    )
    assert len(calls) == 1  # that one again
    run(model, recording, neurons, directory=tmp_path, conditions=["raised"], how=Steering(strength=2.0))
    assert len(calls) == 1 + 1 and len(calls[1][1]) == 9 * 2  # other recipes are other cells, in one queue
    assert all(set(json.loads(path.read_text())) >= {"recipe", "prompts", "answers"} for path in tmp_path.iterdir())


def test_a_queue_writes_what_each_cell_alone_gives(model, recording, neurons, monkeypatch):
    drawn = Generation(tokens=6, temperature=1.0, seed=4)
    ask = lambda: force(model, recording, neurons, PROMPTS, generation=drawn, progress=False)  # noqa: E731
    together = ask()
    monkeypatch.setattr(forcing, "QUEUE_CELLS", 1)
    pd.testing.assert_frame_equal(ask(), together)
    row = together.query("condition == 'both' and source == 'fr' and target == 'ru'")
    with Steering().recipe(recording, neurons, "ru", "fr").applied(model):
        assert list(row["answer"]) == generate(model, PROMPTS["fr"], **drawn.model_dump())


def test_each_language_with_each_language_off(model, neurons):
    table = deactivated(model, neurons, PROMPTS, generation=SHORT, progress=False)
    assert list(table["off"].unique()) == ["normal", "en", "fr", "ru", "random"] and len(table) == 5 * 3 * 2
    with ng.intervene(model, ng.Deactivate(neurons["fr"])):
        written = generate(model, PROMPTS["ru"], **SHORT.model_dump())
    assert list(table[(table["off"] == "fr") & (table["source"] == "ru")]["answer"]) == written
    assert (table["source"] == table["target"]).all()


def table_of(rows):
    columns = ["condition", "source", "target", "language", "degenerate", "nll", "tokens"]
    table = pd.DataFrame(rows, columns=columns).assign(
        seed=0, prompt="p", answer="a", mixed_script=False, mixed_words=False, refusal=False
    )
    return table.assign(on_target=table["language"] == table["target"])


def test_matrix_and_repair_count():
    table = table_of(
        [("intact", "es", "es", language, False, 2.0, 2) for language in ("en", "es", "", "en")]
        + [("raised", "es", "es", language, False, 4.0, 2) for language in ("es", "fr", "es", "en")]
        + [("intact", "es", "zh", "es", False, 1.0, 1)]
    )
    assert matrix(table, "intact").loc["es"].to_dict() == {"es": 0.25, "zh": 0.0}
    row = repair(table).loc["es"]
    assert (row["intact"], row["steered"], row["off_target"], row["repaired"], row["broken"]) == (0.25, 0.5, 2, 1, 1)
    assert row["intact_perplexity"] == pytest.approx(2.718281828) and row["steered_perplexity"] > 7
    crossed = table_of([("intact", "en", "zh", "en", False, 1.0, 1), ("raised", "en", "zh", "zh", False, 1.0, 1)])
    assert repair(crossed, asked=True).loc["zh", "repaired"] == 1 and repair(crossed).empty
    with pytest.raises(ng.NeuroglotError, match="one of them was not measured"):
        repair(table, "both")


@shapes.unchecked()  # no model is asked
def test_search_takes_the_best_within_bounds(monkeypatch):
    """Four settings whose rates we say: the most accurate is not fluent; the next is, and is reported on the rest."""
    settings = [Steering(strength=s) for s in (1.0, 2.0, 3.0, 4.0)]
    accurate = {1.0: (1, 2.0), 2.0: (2, 2.5), 3.0: (3, 2.9), 4.0: (4, 9.0)}  # of four; nats a token
    seen = []

    def fake(model, recording, neurons, prompts, *, how, conditions, targets, **_):
        ((source, texts),) = prompts.items()
        seen.append((conditions[0], how and how.strength, source, targets[0], tuple(texts)))
        if conditions == ["intact"]:
            return table_of([("intact", source, targets[0], source, False, 2.3, 1)])
        good, nats = accurate[how.strength]
        return table_of([("both", source, "zh", "zh" if i < good else "es", False, nats, 1) for i in range(4)])

    monkeypatch.setattr(sys.modules[search.__module__], "force", fake)
    prompts = {"es": ["a", "b", "c", "d"], "zh": ["e", "f", "g", "h"]}
    chosen, table = search(None, None, None, prompts, settings, targets=["zh"], max_loss=1.0)
    assert chosen.strength == 3.0
    assert list(table["within"][:4]) == [True, True, True, False]
    assert list(table["setting"][-3:]) == [chosen.words(), "intact", "native"]
    reported = [entry for entry in seen if entry[4] in (("b", "d"), ("f", "h"))]  # the other half, of the one chosen
    assert reported == [
        ("intact", None, "zh", "zh", ("f", "h")), ("both", 3.0, "es", "zh", ("b", "d")),
        ("intact", None, "es", "zh", ("b", "d")),
    ]  # fmt: skip
    chosen, table = search(None, None, None, prompts, settings[3:], targets=["zh"])
    assert chosen.strength == 4.0 and not table["within"].iloc[0]  # nothing holds, and it says so


def test_search_runs(model, recording, neurons, tmp_path):
    settings = grid(model.layers, methods=("replace", "scale"), sites=("hidden",), strengths=(1.0,))
    assert len(settings) == 4 and settings[1].layers == (2,) and settings[2].strength == 2.0
    chosen, table = search(
        model, recording, neurons, PROMPTS, settings, generation=SHORT, directory=tmp_path, progress=False
    )
    assert chosen in settings and len(table) == 4 + 3


def test_refusals(model, recording, neurons):
    with pytest.raises(ng.NeuroglotError, match="have no de"):
        run(model, recording, neurons, targets=["de"])
    with pytest.raises(ng.NeuroglotError, match="other weights"):
        run(tiny.model(seed=1), recording, neurons)
    with pytest.raises(ng.NeuroglotError, match="prompts in ru too"):
        search(model, recording, neurons, {"en": ["a", "b"]}, [Steering()], targets=["ru"])
    with pytest.raises(ng.NeuroglotError, match="at least two"):
        search(model, recording, neurons, {"en": ["a"], "ru": ["b"]}, [Steering()], targets=["ru"])
    with pytest.raises(ng.NeuroglotError, match="between languages"):
        search(model, recording, neurons, {"ru": ["a", "b"]}, [Steering()], targets=["ru"])
    with pytest.raises(ng.NeuroglotError, match="no setting"):
        search(model, recording, neurons, PROMPTS, [])
