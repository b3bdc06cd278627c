"""Table 1's cells: the mean rate by whose neurons are ablated and language asked in."""

import pandas as pd

from neuroglot.studies.answers import on_target


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
