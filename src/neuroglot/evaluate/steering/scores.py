"""The steering score: how often answers are in the language asked for, how relevant they are, and both together.

LFS is the share of answers identified as the target language, relevance the mean of 0 to 2 over 2, and the steering
score their harmonic mean (CLaS-Bench, 2026).
"""

from collections.abc import Sequence

import pandas as pd
import torch

from neuroglot.errors import NeuroglotError
from neuroglot.stats import bootstrap_weights, interval

__all__ = ["harmonic_mean", "steering_scores"]


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), and 0 where one of them is 0."""
    return 2 * first * second / (first + second) if first > 0 and second > 0 else 0.0


def steering_scores(
    answers: pd.DataFrame, by: Sequence[str] = ("condition",), *, draws: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """LFS, relevance and steering score of groups of answers, with 95 % intervals.

    Args:
        answers: with the columns on_target, relevance (0 to 2) and prompt; a row is an answer.
        by: the columns that make groups.
        draws: of the bootstrap, which draws prompts with all their answers: answers to one question are alike.
        seed: of the draws.

    Returns:
        Indexed by `by`: answers; lfs, relevance and steering_score, 0 to 1; each with its ends (`lfs_low`, `lfs_high`
        …), NaN where there is one prompt only.

    Raises:
        NeuroglotError: the answers were not rated.
    """
    if "relevance" not in answers:
        raise NeuroglotError("These answers have no relevance; let the likelihood rule or a judge rate them.")
    rows = {}
    for name, group in answers.groupby(list(by), sort=False):
        rows[name] = _scores(group, draws, seed)
    index = pd.MultiIndex.from_tuples(rows, names=list(by))
    return pd.DataFrame(list(rows.values()), index=index if len(by) > 1 else index.get_level_values(0))


def _scores(group: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
    sums = group.assign(count=1.0, hits=group["on_target"].astype(float), points=group["relevance"].astype(float) / 2)
    keys = [key for key in ("source", "prompt") if key in group]
    parts = torch.tensor(sums.groupby(keys, sort=False)[["count", "hits", "points"]].sum().to_numpy())
    drawn = bootstrap_weights(len(parts), draws, seed) @ parts
    lfs, relevance = drawn[:, 1] / drawn[:, 0], drawn[:, 2] / drawn[:, 0]
    both = torch.where((lfs > 0) & (relevance > 0), 2 * lfs * relevance / (lfs + relevance), 0.0)
    row: dict[str, float] = {"answers": len(group)}
    for name, values in (("lfs", lfs), ("relevance", relevance), ("steering_score", both)):
        low, high = interval(values[1:]) if len(parts) > 1 else (float("nan"), float("nan"))
        row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return row
