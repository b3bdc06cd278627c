"""Table 1's cells: the mean rate by whose neurons are ablated and language asked in; and where a judge says nothing."""

import pandas as pd

from neuroglot.evaluate.steering.judge import JudgeSettings
from neuroglot.studies.answers import judged_on_target, on_target


def test_a_language_counts_where_its_own_cell_is_below_the_random_one():
    cells = {
        ("normal", "en"): [1, 1], ("normal", "fr"): [1, 0],
        ("en", "en"): [0, 1], ("en", "fr"): [1, 1],
        ("fr", "en"): [1, 1], ("fr", "fr"): [1, 1],
        ("random", "en"): [1, 1], ("random", "fr"): [1, 1],
    }  # fmt: skip
    answers = pd.DataFrame(
        [{"off": off, "target": target, "rate": rate} for (off, target), rates in cells.items() for rate in rates]
    )
    table, said, agrees = on_target(answers, "share of good answers")
    assert list(table.off) == ["normal", "en", "fr", "random"]  # in the order measured
    assert table.set_index("off").loc["en"].to_dict() == {"en": 0.5, "fr": 1.0}
    assert said[0].startswith("1 of 2 languages have a lower share of good answers") and said[0].endswith(": English.")
    assert "on target 0.75, random 1.00, normal 0.75, over 4 answers a row" in said[1]
    assert agrees is False  # half is not most
    answers.loc[answers.off == "random", "rate"] = 2
    assert on_target(answers, "score")[2] is True


def test_a_judge_that_gives_one_score_gives_no_verdict():
    """Empty answers have the least score unasked: they are no sign that it tells answers apart."""
    answers = pd.DataFrame(
        [{"off": off, "target": tag, "answer": "x", "score": 5.0} for off in ("normal", "en", "fr", "random")
         for tag in ("en", "fr") for _ in range(2)]
    )  # fmt: skip
    own = answers.off == answers.target
    answers.loc[own, ["answer", "score"]] = [" ", 1.0]
    judge = JudgeSettings(model="some/judge.gguf", base_url="local", reading="expected")
    table, said, agrees = judged_on_target(answers, judge)
    assert agrees is None
    assert said[0] == "No verdict: the judge gave every answer that it read one score, 5."
    assert said[1].startswith("2 of 2 languages have a lower score, 1 to 10,")  # the numbers stand
    assert said[-1] == "Scored by judge.gguf, the mean of its ratings by their likelihood."
    assert table.set_index("off").loc["en", "en"] == 1
    assert "Of answers that are not empty, 0 of 2 languages: mean on target (none), random 5.00, normal 5.00." in said
    answers.loc[own, ["answer", "score"]] = ["y", 4.0]  # one answer read is enough
    assert judged_on_target(answers, judge)[2] is True
    said = judged_on_target(answers, judge)[1]
    assert not any("No verdict" in sentence for sentence in said)
    assert "Of answers that are not empty, 2 of 2 languages: mean on target 4.00, random 5.00, normal 5.00." in said
