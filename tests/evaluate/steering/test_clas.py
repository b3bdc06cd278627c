"""Answers in CLaS-Bench's shape, in and out, and the scores of them."""

import json

import pandas as pd
import pytest
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.steering.clas import identified, read_clas, write_clas
from neuroglot.evaluate.steering.forcing import Steering

ROWS = [
    ("intact", "en", "fr", "Why?", "Because the sky is blue and the sun is high.", 2),
    ("intact", "en", "fr", "How?", "It is done with the hands and with patience.", 1),
    ("diffmean + prompting I", "en", "fr", "Why?", "Parce que le ciel est bleu et le soleil est haut.", 2),
    ("diffmean + prompting I", "en", "fr", "How?", "", 0),
    ("diffmean + prompting I", "de", "zh", "Warum?", "因为天空是蓝色的。", 1),
]
COLUMNS = ["condition", "source", "target", "prompt", "answer", "relevance"]


@pytest.fixture
def answers():
    return pd.DataFrame(ROWS, columns=COLUMNS)


def test_what_was_written_is_read(answers, tmp_path):
    files = write_clas(answers, tmp_path / "out", {"model": "tiny"})
    assert len(files) == 4
    said = json.loads((tmp_path / "out" / "diffmean-prompting-I" / "en_to_fr.json").read_text(encoding="utf-8"))
    assert (said["source_language"], said["target_language"], said["model"]) == ("en", "fr", "tiny")
    assert [row["question_idx"] for row in said["results"]] == [0, 1]
    assert said["results"][0]["input"] == "Why?" and said["results"][0]["output"].startswith("Parce que")
    for path in (tmp_path / "out", tmp_path / "out" / "answers.jsonl"):
        read = read_clas(path).sort_values(COLUMNS, ignore_index=True)
        pd.testing.assert_frame_equal(
            read, answers.sort_values(COLUMNS, ignore_index=True), check_dtype=False, check_like=True
        )


def test_a_file_says_the_steering_of_its_condition(answers, tmp_path):
    """What the intact model answers is not said to be steered."""
    how = Steering(method="diffmean", strength=2.0)
    names = ("intact", "prompting I", "raised + prompting I", "source off", "both", "random")
    tables = [answers[answers.condition == "intact"].assign(condition=name) for name in names]
    write_clas(pd.concat(tables), tmp_path, {"model": "tiny"}, how)
    lines = map(json.loads, (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    said = {row["method"]: row["steering"] for row in lines}
    words = "diffmean × 2 at residual"
    assert [said[name] for name in names] == [
        None, None, words, "source off", f"{words}, source off", f"{words}, source off, random neurons"
    ]  # fmt: skip


def test_files_of_the_benchmarks_own_scripts(tmp_path):
    """Neuron scripts call the languages otherwise; prompting keeps the question apart; no judge has been there."""
    folder = tmp_path / "layers" / "strength_5_0"
    folder.mkdir(parents=True)
    results = [{"question_idx": 0, "input": "Why? Respond in French.", "output": "Oui.", "original_prompt": "Why?"}]
    said = {"deactivate_language": None, "source_language": "en", "activate_language": "fr", "results": results}
    (folder / "en_to_fr.json").write_text(json.dumps(said), encoding="utf-8")
    (row,) = read_clas(tmp_path).to_dict("records")
    assert row == {
        "condition": "layers/strength_5_0", "source": "en", "target": "fr", "prompt": "Why?", "answer": "Oui."
    }  # fmt: skip


def test_scores_of_a_folder(answers, tmp_path, monkeypatch, capsys):
    write_clas(answers, tmp_path / "out")
    told = identified(answers)
    assert list(told["on_target"]) == [False, False, True, False, True]
    said = neuroglot("evaluate", "score", tmp_path / "out", "--out", tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv", index_col="condition")
    assert table.loc["diffmean + prompting I", "lfs"] == pytest.approx(2 / 3) and "66.7%" in said
    assert table.loc["diffmean + prompting I", "relevance"] == 0.5 and table.loc["intact", "steering_score"] == 0
    say = lambda *more: refused(monkeypatch, capsys, "evaluate", "score", *more)  # noqa: E731
    write_clas(answers.drop(columns="relevance"), tmp_path / "unrated")
    assert "Not every answer has a score" in say(tmp_path / "unrated")
    (tmp_path / "none").mkdir()
    assert "nothing at" in say(tmp_path / "gone") and "no answers at" in say(tmp_path / "none")
    assert "--by takes" in say(tmp_path / "out", "--by", "me")
    assert "--judge or by a --reader" in say(tmp_path / "out", "--judge", "m", "--reader", "m")


SAID = '{"source_language": "en", "target_language": "fr"}'


def test_lines_are_json_lines_as_everywhere(tmp_path):
    """A byte-order mark is no text, and U+2028 ends no line."""
    rows = [{**json.loads(SAID), "input": "Why?", "output": answer} for answer in ("Parce\u2028que.", "Ainsi.")]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    assert list(read_clas(tmp_path / "a.jsonl")["answer"]) == ["Parce\u2028que.", "Ainsi."]


def test_an_answer_that_is_null_says_nothing(tmp_path):
    row = {**json.loads(SAID), "input": "Why?", "output": None}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert list(read_clas(tmp_path / "a.jsonl")["answer"]) == [""]


WRONG = (
    '{"input": "a", "output": "b", "judge_evaluation": {"judge_score": 5}}',
    '{"input": "a", "output": 3}',
    r'{"input": "a", "output": "\ud800"}',
)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "[{}]", '{"source_language": "en"}', SAID] + [f'{SAID[:-1]}, "results": [{row}]}}' for row in WRONG],
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "en_to_fr.json").write_text(text)
    with pytest.raises(ng.NeuroglotError, match="en_to_fr.json"):
        read_clas(tmp_path)
