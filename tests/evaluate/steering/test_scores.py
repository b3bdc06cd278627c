"""LFS, relevance and their harmonic mean; the likelihood rule against a plain loop."""

import math
import sys

import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.evaluate.steering.answers import nll_after
from neuroglot.evaluate.steering.relevance import LikelihoodRule, echoes
from neuroglot.evaluate.steering.scores import harmonic_mean, score_difference, steering_scores

QUESTIONS = {
    "en": [f"question {name} of many?" for name in ("one", "two", "three", "four", "five", "six")],
    "fr": [f"demande {name} entre toutes ?" for name in ("un", "deux", "trois", "quatre", "cinq", "six")],
}


def test_the_score_is_the_harmonic_mean_of_two_shares():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3) and harmonic_mean(0.0, 1.0) == 0 == harmonic_mean(1.0, 0.0)
    answers = pd.DataFrame(
        {"condition": "raised", "source": "en", "prompt": ["a", "a", "b", "b"], "on_target": [True, True, True, False],
         "relevance": [2, 1, 0, 2]}
    )  # fmt: skip
    row = steering_scores(answers).loc["raised"]
    assert (row["answers"], row["lfs"], row["relevance"]) == (4, 0.75, 0.625)
    assert row["steering_score"] == pytest.approx(2 * 0.75 * 0.625 / 1.375)
    assert row["lfs_low"] == 0.5 and row["lfs_high"] == 1.0  # prompts are drawn, with all their answers
    one = steering_scores(answers[answers["prompt"] == "a"]).loc["raised"]
    assert one["lfs"] == 1 and pd.isna(one["lfs_low"])
    with pytest.raises(ng.NeuroglotError, match="no relevance"):
        steering_scores(answers.drop(columns="relevance"))


def test_how_likely_tokens_are_after_others():
    model = tiny.model()
    rows = [((5, 6, 7), (8, 9)), ((), (3, 4, 5)), ((1,), (2,)), ((4,), ()), ((), (7,))]
    found = nll_after(model, rows, batch_tokens=6)
    for (before, after), (nll, count) in zip(rows, found, strict=True):
        ids = [*before, *after]
        first = max(len(before), 1)
        if len(ids) < 2 or not after:
            assert (nll, count) == (0.0, 0)
            continue
        with torch.no_grad():
            logits = model.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = -sum(float(logits[i - 1, ids[i]]) for i in range(first, len(ids)))
        assert nll == pytest.approx(expected, rel=1e-4) and count == len(ids) - first


def test_the_rule_is_a_plain_loop(tmp_path):
    model = tiny.model()
    rule = LikelihoodRule(model, QUESTIONS, others=4, directory=tmp_path)
    texts = ["the cats sat on a mat", "whatever else there is", "one fish and a hat", "abc"]
    answers = pd.DataFrame(
        [{"source": "en", "target": "fr", "prompt": prompt, "answer": text}
         for prompt in QUESTIONS["en"] for text in texts]
    )  # fmt: skip
    rated = rule.rate(answers, progress=False)
    for row in rated.itertuples():
        place = QUESTIONS["en"].index(row.prompt)
        beside = [QUESTIONS["en"][(place + step) % 6] for step in (1, 2, 3, 4)]
        (ids,) = model.encode([row.answer])
        likely = [
            nll_after(model, [((*model.begin, *model.encode([text])[0]), ids)])[0][0] for text in (row.prompt, *beside)
        ]
        likelier = sum(nll <= likely[0] for nll in likely[1:])
        expected = 2 if likelier == 0 else 1 if likelier <= 1 else 0
        assert row.relevance == (0 if row.answer == "abc" else expected)
    assert set(rated["relevance"]) == {0, 1, 2}
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = LikelihoodRule(model, QUESTIONS, others=4, directory=tmp_path).rate(answers, progress=False)
    assert list(again["relevance"]) == list(rated["relevance"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_an_answer_without_words_of_its_own_is_about_nothing():
    rule = LikelihoodRule(tiny.model(), QUESTIONS)
    said = ["", "   ", "<b></b>", "question two of many", "demande deux entre toutes", "ab ab ab ab ab ab ab ab ab"]
    answers = pd.DataFrame({"source": "en", "target": "fr", "prompt": QUESTIONS["en"][1], "answer": said})
    assert not rule.rate(answers, progress=False)["relevance"].any()
    assert echoes("Question two, of many!", QUESTIONS["en"][1]) and not echoes("the cats sat", QUESTIONS["en"][1])


def test_the_rule_refuses(monkeypatch):
    model = tiny.model()
    with pytest.raises(ng.NeuroglotError, match="at least three"):
        LikelihoodRule(model, {"en": ["a?", "b?"]})
    rule = LikelihoodRule(model, QUESTIONS)
    row = {"source": "en", "target": "fr", "prompt": "another?", "answer": "the cats sat on a mat"}
    with pytest.raises(ng.NeuroglotError, match="none of the questions"):
        rule.rate(pd.DataFrame([row]), progress=False)
    with pytest.raises(ng.NeuroglotError, match="no questions in ru"):
        rule.rate(pd.DataFrame([{**row, "source": "ru"}]), progress=False)
    monkeypatch.setattr(sys.modules[LikelihoodRule.__module__], "has_encoder", lambda network: True)
    with pytest.raises(ng.NeuroglotError, match="let another model read"):
        LikelihoodRule(model, QUESTIONS)


def test_a_difference_is_drawn_by_prompt_for_both():
    first = pd.DataFrame({"condition": "a", "source": "en", "prompt": list("xyz"), "on_target": [True, True, False],
                          "relevance": [2, 1, 2]})  # fmt: skip
    answers = pd.concat([first, first.assign(condition="b").iloc[::-1], first.assign(condition="c", on_target=True)])
    assert score_difference(answers, "a", "b") == (0.0, 0.0, 0.0)
    found = score_difference(answers, "c", "a")
    scores = steering_scores(answers)["steering_score"]
    assert found[0] == pytest.approx(scores["c"] - scores["a"]) and 0 <= found[1] <= found[0] <= found[2]
    with pytest.raises(ng.NeuroglotError, match="same prompts"):
        score_difference(answers[answers["prompt"] != "x"].query("condition == 'a'"), "a", "b")


def test_an_answer_without_a_score_is_not_irrelevant():
    answers = pd.DataFrame(
        {"condition": "a", "source": None, "prompt": list("xyz"), "on_target": True, "relevance": 2.0}
    )
    scores = steering_scores(answers).loc["a"]
    assert scores["answers"] == 3 and scores["lfs"] == scores["relevance"] == 1.0  # without a source, too
    for wrong in (float("nan"), None, 3, -1):
        unrated = answers.assign(relevance=pd.Series([2.0, 2.0, wrong], dtype=object))
        for use in (
            lambda table=unrated: steering_scores(table),
            lambda table=unrated: score_difference(table, "a", "a"),
        ):
            with pytest.raises(ng.NeuroglotError, match="1 of 3 answers have another or none"):
                use()
    with pytest.raises(ng.NeuroglotError, match="no column on_target"):
        steering_scores(answers.drop(columns="on_target"))
    assert math.isnan(harmonic_mean(math.nan, 1.0))
