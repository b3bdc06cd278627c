"""Answers as tables: by source and target, and what steering repairs."""

import pandas as pd

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.forcing import Forced

__all__ = ["matrix", "repair"]


def matrix(answers: pd.DataFrame, condition: str, rate: str = "on_target") -> pd.DataFrame:
    """A rate by source (rows) and target (columns) in one condition of what `force` gives."""
    table = answers[answers["condition"] == condition]
    if table.empty:
        have = ", ".join(answers["condition"].unique())
        raise NeuroglotError(f"Nothing was measured in the condition {condition!r}; it has {have}.")
    wide = table.astype({rate: float}).pivot_table(rate, "source", "target", sort=False)
    return wide.reindex(index=table["source"].unique(), columns=table["target"].unique())


def repair(answers: pd.DataFrame, condition: Forced = "raised", *, asked: bool = False) -> pd.DataFrame:
    """Off-target repair (Tang et al. 2024, Table 4): prompts that want an answer in a language, and do not get it.

    Args:
        answers: of `force`, with the conditions `intact` and `condition`.
        condition: the steered one.
        asked: whether every prompt says in words which language it wants (`asking`). Otherwise a prompt wants the
            language it is written in, and cells of other targets do not count.

    Returns:
        A row a language: prompts; intact and steered, the share answered in it; off_target, intact answers detected as
        another language; repaired, those of them that are in it when steered; broken, those in it before and
        not after; and the perplexity and the degenerate share of both.
    """
    wanting = answers if asked else answers[answers["source"] == answers["target"]]
    rows = {}
    for tag, table in wanting.groupby("target", sort=False):
        parts = [table[table["condition"] == name].reset_index(drop=True) for name in ("intact", condition)]
        if any(part.empty for part in parts):
            raise NeuroglotError(
                f"Repair compares the conditions intact and {condition}, and one of them was not measured."
            )
        before, after = parts
        off = ~before["on_target"] & (before["language"] != "")
        rates = [summary(part, ["target"]).iloc[0] for part in parts]
        rows[tag] = {
            "prompts": len(before),
            "intact": before["on_target"].mean(),
            "steered": after["on_target"].mean(),
            "off_target": int(off.sum()),
            "repaired": int((off & after["on_target"]).sum()),
            "broken": int((before["on_target"] & ~after["on_target"]).sum()),
            "intact_perplexity": rates[0]["perplexity"],
            "steered_perplexity": rates[1]["perplexity"],
            "intact_degenerate": rates[0]["degenerate"],
            "steered_degenerate": rates[1]["degenerate"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("language")
