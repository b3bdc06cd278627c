"""Two models on the same items: is the difference more than chance?"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from neuroglot.errors import NeuroglotError

__all__ = ["Paired", "mcnemar", "paired"]


@dataclass(frozen=True)
class Paired:
    """A paired comparison.

    Attributes:
        difference: mean score after, less the mean before.
        low: lower end of the 95 % bootstrap interval of the difference.
        high: its upper end.
        gained: items that are better after.
        lost: items that are worse after.
        p: of McNemar's exact test; None if scores are not all 0 or 1.
    """

    difference: float
    low: float
    high: float
    gained: int
    lost: int
    p: float | None


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: gains and losses are as likely as heads and tails."""
    total = gained + lost
    tail = sum(comb(total, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


def paired(before: Sequence[float], after: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Paired:
    """Compare the scores of two models on the same items, in the same order.

    Args:
        before: the scores of the first model, such as the intact one.
        after: those of the second.
        resamples: of the percentile bootstrap, which draws items with replacement, each with both its scores.
        seed: of the bootstrap.

    Raises:
        NeuroglotError: there are no items, or not as many in both.
    """
    if len(before) != len(after) or not len(before):
        raise NeuroglotError(f"A paired comparison needs the same items twice, not {len(before)} and {len(after)}.")
    change = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    draws = np.random.default_rng(seed)
    n = len(change)
    rows = max(1, 4_000_000 // n)  # so many resamples at once that their indices take 32 MB
    counts = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means = np.concatenate([change[draws.integers(n, size=(count, n))].mean(1) for count in counts])
    low, high = np.quantile(means, (0.025, 0.975))
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    binary = set(before) | set(after) <= {0, 1}
    return Paired(
        float(change.mean()), float(low), float(high), gained, lost, mcnemar(gained, lost) if binary else None
    )
