"""Intervals, tests and rankings, over SciPy: each statistical concern once.

One value has no spread. Where an interval or a test would rest on one block, item or seed its ends, or its p-value, are
NaN (None in `Paired`), never a point that looks like certainty.

SciPy is imported where it is used, since that takes a second.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Contrast",
    "Mantel",
    "Paired",
    "bootstrap_weights",
    "contrast",
    "entropy",
    "interval",
    "linkage",
    "mantel",
    "mcnemar",
    "mean_interval",
    "paired",
    "ratio_interval",
    "spearman",
    "wilson",
]

Matrix = Float64[Tensor, "languages languages"]
Weights = Float64[Tensor, "draws samples"]

Z = 1.959964  # of a two-sided 95 % interval


def entropy(values: Float64[Tensor, "*neurons languages"]) -> Float64[Tensor, "*neurons"]:
    """Entropy (nats) of non-negative values normalised over the last axis; NaN where all are zero."""
    share = values / values.sum(-1, keepdim=True)
    terms: Tensor = torch.special.xlogy(share, share)
    return -terms.sum(-1)


# --- intervals -------------------------------------------------------------------------------------------------------


def wilson(count: Shaped[Tensor, "*any"], total: Shaped[Tensor, "*all"]) -> tuple[Tensor, Tensor]:
    """Wilson's 95 % interval of a share, as if draws were independent (Wilson 1927).

    Tokens of a text are not, which flatters it. Nothing drawn leaves everything possible: 0 to 1.

    Args:
        count: how many have it.
        total: of how many; broadcast against `count`.

    Returns:
        The lower and the upper end, float64; to rounding within 0 and 1.
    """
    n = total.to(torch.float64)
    p = count / n
    scale = 1 + Z * Z / n
    centre = (p + Z * Z / (2 * n)) / scale
    half = Z / scale * (p * (1 - p) / n + Z * Z / (4 * n * n)).sqrt()
    return torch.where(n > 0, centre - half, 0.0), torch.where(n > 0, centre + half, 1.0)


def interval(
    draws: Float[Tensor, " draws"], level: float = 0.95, *, interpolation: Literal["linear", "nearest"] = "linear"
) -> tuple[float, float]:
    """The percentile interval that `level` of the bootstrap draws lie in.

    Draws that are NaN are left out; with fewer than two others there is no spread, and the ends are NaN. With `nearest`
    the ends are draws, which may be infinite.

    Raises:
        NeuroglotError: `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise NeuroglotError(f"level must be above 0 and below 1, not {level}.")
    drawn = draws[~draws.isnan()].to(torch.float64)
    if len(drawn) < 2:
        return float("nan"), float("nan")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = drawn.quantile(ends, interpolation=interpolation).tolist()
    return low, high


def mean_interval(
    values: Float[Tensor, "*cells blocks"], *, level: float = 0.95, draws: int = 2_000, seed: int = 0
) -> tuple[Float64[Tensor, "*cells"], Float64[Tensor, "*cells"]]:
    """The percentile bootstrap interval of a mean over the last axis: blocks are drawn with replacement.

    All cells share the draws. With one block no interval is known, and both ends are NaN.

    Args:
        values: one value a block, such as its change of the loss; infinite ones give infinite ends.
        level: how much of the draws lie between the ends.
        draws: how many.
        seed: of the draws.

    Raises:
        NeuroglotError: `level` is not between 0 and 1, or there is no block.
    """
    count = values.shape[-1]
    if not count:
        raise NeuroglotError("An interval over blocks needs blocks, and there is none.")
    values, weights = values.to(torch.float64), bootstrap_weights(count, draws, seed)[1:]
    finite = values.isfinite()
    means = torch.where(finite, values, 0.0) @ (weights / count).T
    means = torch.where((~finite).double() @ weights.T > 0, values.sum(-1, keepdim=True), means)  # ∞, or NaN
    flat = means.reshape(-1, draws)
    ends = [interval(row, level, interpolation="nearest") if count > 1 else (math.nan, math.nan) for row in flat]
    low, high = torch.tensor(ends, dtype=torch.float64).reshape(*values.shape[:-1], 2).unbind(-1)
    return low, high


def ratio_interval(
    after: Float[Tensor, " pieces"], before: Float[Tensor, " pieces"], *, draws: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of sum(after) / sum(before): pieces are drawn in pairs.

    With one piece no interval is known, and both ends are NaN.

    Args:
        after: one value a piece, such as its bits by a smaller model.
        before: of the same pieces.
        draws: how many.
        seed: of the draws.
    """
    if len(after) < 2:
        return math.nan, math.nan
    weights = bootstrap_weights(len(after), draws, seed)[1:]
    return interval((weights @ after.double()) / (weights @ before.double()))


def bootstrap_weights(samples: int, draws: int, seed: int) -> Weights:
    """How often each draw has each meaning, (1 + draws, n); the first row has each once: the value itself."""
    if draws < 0:
        raise NeuroglotError(f"draws must be at least 0, not {draws}.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(samples, (draws, samples), generator=generator)
    counts = torch.zeros(draws, samples, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, dtype=torch.float64).expand_as(drawn)
    )
    return torch.cat([torch.ones(1, samples, dtype=torch.float64), counts])


# --- tests -----------------------------------------------------------------------------------------------------------


def mcnemar(gained: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: gains and losses are as likely as heads and tails."""
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


class _OneRow:
    """A result of a few numbers."""

    def frame(self) -> "pd.DataFrame":
        """One row, with a column for each attribute."""
        import pandas as pd

        return pd.DataFrame([vars(self)])


@dataclass(frozen=True)
class Paired(_OneRow):
    """A paired comparison.

    Attributes:
        difference: mean score after, less the mean before.
        low: lower end of the 95 % bootstrap interval of the difference; NaN with one item, which has no spread.
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
    low, high = np.quantile(means, (0.025, 0.975)) if n > 1 else (math.nan, math.nan)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    binary = set(before) | set(after) <= {0, 1}
    return Paired(
        float(change.mean()), float(low), float(high), gained, lost, mcnemar(gained, lost) if binary else None
    )


@dataclass(frozen=True)
class Contrast(_OneRow):
    """Whether one set of values is higher than another.

    Attributes:
        difference: mean of the first, less the mean of the second.
        low: lower end of its bootstrap interval; NaN where either has one value.
        high: its upper end.
        p: of the permutation test, two-sided; NaN where either has one value, which leaves nothing to permute.
        first: how many values the first mean is of.
        second: how many the second is of.
    """

    difference: float
    low: float
    high: float
    p: float
    first: int
    second: int


def contrast(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    matched: bool = False,
    level: float = 0.95,
    resamples: int = 9_999,
    seed: int = 0,
) -> Contrast:
    """Is the mean of the first higher than that of the second? A permutation test, and a bootstrap interval.

    Args:
        first: such as the change of the loss of each block of French.
        second: such as that of each block of Spanish.
        matched: the values are of the same blocks, in their order: signs of the differences are permuted, and blocks
            are drawn as pairs. Otherwise the values are permuted between the two.
        level: of the interval.
        resamples: of either; where fewer permutations exist the test is exact.
        seed: of either.

    Raises:
        NeuroglotError: there is no value, one is no finite number, or `matched` values differ in number.
    """
    from scipy.stats import permutation_test

    one, two = (np.asarray(values, dtype=float) for values in (first, second))
    if not len(one) or not len(two) or not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise NeuroglotError("A contrast needs finite values of both; one has none, or a loss that is infinite.")
    if matched and len(one) != len(two):
        raise NeuroglotError(f"Matched values are of the same blocks, not of {len(one)} and {len(two)}.")
    if not 0 < level < 1:
        raise NeuroglotError(f"level must be above 0 and below 1, not {level}.")
    difference = float(one.mean() - two.mean())
    if min(len(one), len(two)) < 2:
        return Contrast(difference, math.nan, math.nan, math.nan, len(one), len(two))

    def apart(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(a.mean(axis) - b.mean(axis))

    kind = "samples" if matched else "independent"
    test = permutation_test(
        (one, two), apart, permutation_type=kind, vectorized=True, n_resamples=resamples, batch=500, rng=seed
    )
    draws = np.random.default_rng(seed)
    places = draws.integers(len(one), size=(resamples, len(one)))
    others = places if matched else draws.integers(len(two), size=(resamples, len(two)))
    means = one[places].mean(1) - two[others].mean(1)
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return Contrast(difference, float(low), float(high), float(test.pvalue), len(one), len(two))


@dataclass(frozen=True)
class Mantel(_OneRow):
    """Whether two distance matrices go together.

    Attributes:
        r: Pearson correlation over the pairs of languages.
        p: share of the permutations of languages, with the given order as one of them, whose r is at least as high.
        permutations: how many were drawn.
    """

    r: float
    p: float
    permutations: int


def mantel(first: Matrix, second: Matrix, *, permutations: int = 9_999, seed: int = 0) -> Mantel:
    """Mantel's test, one-sided: do languages that are near in `second` lie nearer in `first`?

    Raises:
        NeuroglotError: there are fewer than four languages, or all distances of a matrix are equal.
    """
    size = len(first)
    if size < 4:
        raise NeuroglotError(f"A Mantel test of {size} languages has too few permutations to say anything; give four.")
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(permutations, size, generator=generator).argsort(1)
    orders = torch.cat([torch.arange(size)[None], orders])
    rows, columns = torch.triu_indices(size, size, 1)
    one = first[rows, columns].to(torch.float64)
    many = second.to(torch.float64)[orders[:, rows], orders[:, columns]]
    one, many = one - one.mean(), many - many.mean(1, keepdim=True)
    lengths = one.norm() * many.norm(dim=1)
    if not float(lengths[0]):
        raise NeuroglotError("A Mantel test needs distances that differ, and here all of one matrix are equal.")
    r = many @ one / lengths
    return Mantel(float(r[0]), float((r >= r[0] - 1e-12).double().mean()), permutations)


# --- rankings and trees ----------------------------------------------------------------------------------------------


def spearman(first: Float[Tensor, " pairs"], second: Float[Tensor, " pairs"]) -> float:
    """Spearman's rank correlation, equal values sharing the mean of their ranks; NaN where all of one are equal."""
    from scipy.stats import spearmanr

    if any(not len(values) or bool((values == values[0]).all()) for values in (first, second)):
        return float("nan")
    return float(spearmanr(first.numpy(), second.numpy()).statistic)


def linkage(distance: Matrix) -> list[tuple[int, int, float, int]]:
    """Average-linkage clustering (UPGMA) of a symmetric distance matrix, for a dendrogram.

    Returns:
        K - 1 merges, nearest first: the two clusters (the K languages are 0 … K - 1, the i-th merge makes K + i),
        their distance, and how many languages are now together. The cluster with the first language comes first.
        Which of equal distances is merged first is for SciPy to say; one that is not known (NaN) counts as the largest.
    """
    from scipy.cluster.hierarchy import linkage as merged

    size = len(distance)
    if size < 2:
        return []
    rows, columns = torch.triu_indices(size, size, 1)
    pairs = distance[rows, columns].to(torch.float64)
    pairs = pairs.nan_to_num(nan=float(pairs.nan_to_num(nan=0.0).max()))
    first = list(range(size))  # language of each cluster
    merges = []
    for one, other, apart, together in merged(pairs.numpy(), "average").tolist():
        a, b = sorted((int(one), int(other)), key=first.__getitem__)
        first.append(first[a])
        merges.append((a, b, apart, int(together)))
    return merges
