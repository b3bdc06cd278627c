"""How a rate of answers, such as a judge's score, falls with each language's neurons ablated."""

from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.evaluate.steering.judge import RUBRICS, JudgeSettings, is_empty, one_score
from neuroglot.languages.tags import language_name

__all__ = ["judged_on_target", "on_target"]


def on_target(answers: pd.DataFrame, what: str) -> tuple[pd.DataFrame, list[str], bool]:
    """Table 1's cells, in words, and whether most languages are worse off without their own neurons than at random.

    Args:
        answers: `off`, whose neurons are ablated; `target`, the language asked in; and `rate`, of each answer.
        what: the rate is.
    """
    wide: Any = answers.pivot_table("rate", "off", "target", sort=False)
    own = {tag: wide.loc[tag, tag] for tag in wide.columns if tag in wide.index}
    below = [tag for tag, value in own.items() if value < wide.loc["random", tag]]
    said = [
        f"{len(below)} of {len(own)} languages have a lower {what} with their own neurons off than with random "
        f"ones{': ' + ', '.join(map(language_name, below)) if below else ''}.",
        f"Mean on target {pd.Series(own).mean():.2f}, random {wide.loc['random'].mean():.2f}, normal "
        f"{wide.loc['normal'].mean():.2f}, over {len(answers) // len(wide)} answers a row.",
    ]
    return wide.round(3).reset_index(), said, len(below) > len(own) / 2


def judged_on_target(answers: pd.DataFrame, judge: JudgeSettings) -> tuple[pd.DataFrame, list[str], bool | None]:
    """The same of a judge's scores, beside those of answers that are not empty: the empty ones have the least unasked.

    There is no verdict if it gave every answer that it read one score.

    Args:
        answers: as `on_target`; with `answer`, and the judge's column in place of `rate`.
        judge: who scored them.
    """
    rubric = RUBRICS[judge.rubric]
    what = f"score, {rubric.lowest:g} to {rubric.highest:g},"
    wide, said, agrees = on_target(answers.assign(rate=answers[rubric.column]), what)
    how = ", the mean of its ratings by their likelihood" if judge.reading == "expected" else ""
    written: Any = answers[~is_empty(answers)].pivot_table(rubric.column, "off", "target", sort=False)
    written = written.reindex(index=wide["off"], columns=wide.columns[1:])
    own = pd.Series({tag: written.loc[tag, tag] for tag in written.columns if tag in written.index}, dtype=float)
    lower = int((own < written.loc["random", own.index]).sum())
    means = (own.mean(), written.loc["random"].mean(), written.loc["normal"].mean())
    shown = ["(none)" if mean != mean else f"{mean:.2f}" for mean in means]
    said.append(
        f"Of answers that are not empty, {lower} of {len(own)} languages: mean on target {shown[0]}, random "
        f"{shown[1]}, normal {shown[2]}."
    )
    said.append(f"Scored by {Path(judge.model).name}{how}.")
    if (alike := one_score(answers, rubric.column)) is not None:
        said.insert(0, f"No verdict: the judge gave every answer that it read one score, {alike:g}.")
        return wide, said, None
    return wide, said, agrees
