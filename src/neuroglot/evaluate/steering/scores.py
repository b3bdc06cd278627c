"""The steering score: how often answers are in the language asked for, how relevant they are, and both together.

LFS is the share of answers identified as the target language, relevance the mean of 0 to 2 over 2, and the steering
score their harmonic mean (CLaS-Bench, 2026).
"""

from collections.abc import Sequence
from math import isnan, nan

import pandas as pd
import torch
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.stats import bootstrap_weights, interval

__all__ = ["harmonic_mean", "score_difference", "steering_scores"]


def harmonic_mean(first: float, second: float) -> float:
    """2ab / (a + b), 0 where one of them is 0, and NaN where one is unknown (NaN)."""
    if isnan(first) or isnan(second):
        return nan
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
        NeuroglotError: a column is missing, or an answer was not rated from 0 to 2.
    """
    _check(answers, by)
    rows = {}
    for name, group in answers.groupby(list(by), sort=False, dropna=False):
        rows[name] = _scores(group, draws, seed)
    index = pd.MultiIndex.from_tuples(rows, names=list(by))
    return pd.DataFrame(list(rows.values()), index=index if len(by) > 1 else index.get_level_values(0))


def _check(answers: pd.DataFrame, by: Sequence[str] = ()) -> None:
    """Refuse answers that were not all rated: one without a score would count as irrelevant."""
    if "relevance" not in answers:
        raise NeuroglotError("These answers have no relevance; let the likelihood rule or a judge rate them.")
    if lacking := [name for name in (*by, "prompt", "on_target") if name not in answers]:
        raise NeuroglotError(f"These answers have no column {lacking[0]}; it has {', '.join(map(str, answers))}.")
    if answers["on_target"].isna().any():
        raise NeuroglotError(
            "Some answers do not say whether they are on_target; tell their language, or leave them out."
        )
    wrong = answers["relevance"][~answers["relevance"].astype(float).between(0, 2)]
    if len(wrong):
        raise NeuroglotError(
            f"Relevance is from 0 to 2, and {len(wrong):,} of {len(answers):,} answers have another or none, such as "
            f"{wrong.iloc[0]}; rate them, or leave them out."
        )


def _scores(group: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
    sums = _sums(group)
    row: dict[str, float] = {"answers": len(group)}
    for name, values in _means(bootstrap_weights(len(sums), draws, seed), sums).items():
        low, high = interval(values[1:]) if len(sums) > 1 else (float("nan"), float("nan"))
        row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
    return row


def _sums(group: pd.DataFrame) -> pd.DataFrame:
    """Of each prompt: answers, those on target, and points of relevance."""
    points = group["relevance"].astype(float) / 2
    sums = group.assign(count=1.0, hits=group["on_target"].astype(float), points=points)
    keys = [key for key in ("source", "prompt") if key in group]
    return sums.groupby(keys, sort=True, dropna=False)[["count", "hits", "points"]].sum()


def _means(weights: Tensor, sums: pd.DataFrame) -> dict[str, Tensor]:
    """The three scores of every draw of prompts."""
    count, hits, points = (weights @ torch.tensor(sums.to_numpy())).unbind(1)
    lfs, relevance = hits / count, points / count
    both = torch.where((lfs > 0) & (relevance > 0), 2 * lfs * relevance / (lfs + relevance), 0.0)
    return {"lfs": lfs, "relevance": relevance, "steering_score": both}


def score_difference(
    answers: pd.DataFrame, first: str, second: str, *, draws: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """The steering score of one condition less that of another, with its 95 % interval, drawn by prompt for both alike.

    Args:
        answers: see `steering_scores`, with the column condition.
        first: a condition.
        second: another, asked the same prompts.
        draws: see `steering_scores`.
        seed: see `steering_scores`.

    Raises:
        NeuroglotError: see `steering_scores`; a condition is missing, or their prompts differ.
    """
    _check(answers, ["condition"])
    sums = [_sums(answers[answers["condition"] == name]) for name in (first, second)]
    if any(part.empty for part in sums) or not sums[0].index.equals(sums[1].index):
        raise NeuroglotError(f"{first} and {second} were not asked the same prompts, so they cannot be compared.")
    weights = bootstrap_weights(len(sums[0]), draws, seed)
    one, other = (_means(weights, part)["steering_score"] for part in sums)
    low, high = interval((one - other)[1:]) if len(sums[0]) > 1 else (float("nan"), float("nan"))
    return float(one[0] - other[0]), low, high
