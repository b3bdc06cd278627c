"""How a rate of answers, such as a judge's score, falls with each language's neurons ablated."""

from typing import Any

import pandas as pd

from neuroglot.languages.tags import language_name

__all__ = ["on_target"]


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
