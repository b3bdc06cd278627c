"""Language forcing: its cells, its matrix, its search, its repair."""

import json

import pandas as pd
import pytest
import shapes
import tiny

import neuroglot as ng
from neuroglot.evaluate.steering import forcing
from neuroglot.evaluate.steering.answers import describe
from neuroglot.evaluate.steering.forcing import Steering, deactivated, force
from neuroglot.evaluate.steering.tables import matrix, repair
from neuroglot.generation.engine import generate
from neuroglot.generation.settings import Generation
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.identifiers import identifier

PROMPTS = {"en": ["the cats sat", "a dog"], "fr": ["çà et là", "un été"], "ru": ["всё хорошо", "раз"]}
SHORT = Generation(tokens=6)


def run(model, recording, neurons, **more):
    return force(model, recording, neurons, PROMPTS, **{"generation": SHORT, "progress": False} | more)


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
    asked |= {"generation": Generation(tokens=4, chat=True)}
    for number, template in ((3, "{{ messages[0]['content'] }}"), (4, "{{ messages[0]['content'] }}: "), (4, None)):
        monkeypatch.setattr(model.tokenizer, "chat_template", template or model.tokenizer.chat_template)
        run(model, recording, neurons, **asked)
        assert len(calls) == number  # another template asks something else


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


def test_refusals(model, recording, neurons):
    with pytest.raises(ng.NeuroglotError, match="have no de"):
        run(model, recording, neurons, targets=["de"])
    with pytest.raises(ng.NeuroglotError, match="other weights"):
        run(tiny.model(seed=1), recording, neurons)


@shapes.unchecked()  # the types forbid what a caller without them may say
def test_unknown_names_are_refused(model, recording, neurons):
    with pytest.raises(ng.NeuroglotError, match="no condition 'III'"):
        run(model, recording, neurons, prompting=["III"])
    with pytest.raises(ng.NeuroglotError, match="lingua or fasttext, not by 'glot'"):
        run(model, recording, neurons, identification="glot")


def test_promptings_are_conditions_of_their_own(model, recording, neurons):
    how = Steering(method="difference", strength=3.0, site="hidden")
    asked = {"how": how, "conditions": ["intact", "raised"], "targets": ["fr"]}
    table = run(model, recording, neurons, prompting=["none", "I", "II"], identification="fasttext", **asked)
    assert list(table["condition"].unique()) == [
        "intact", "prompting I", "prompting II", "raised", "raised + prompting I", "raised + prompting II",
    ]  # fmt: skip
    plain = run(model, recording, neurons, **asked)
    for name in ("intact", "raised"):
        assert list(table.loc[table["condition"] == name, "answer"]) == list(
            plain.loc[plain["condition"] == name, "answer"]
        )
    said = "Répondez en français.\n\nthe cats sat"  # a beginning goes on, so the request stands before it
    (answer,) = generate(model, [said], recipes=[how.recipe(recording, neurons, "fr", None)], **SHORT.model_dump())
    cell = table[(table["condition"] == "raised + prompting II") & (table["prompt"] == "the cats sat")]
    assert list(cell["answer"]) == [answer] and list(cell["prompting"]) == ["II"]
    tell = identifier("fasttext", ["fr"])
    assert list(table["language"]) == [tell(text) or "" for text in table["answer"]]
