"""Intervals, tests and rankings, over SciPy: each statistical concern once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.errors import NeuroglotError

__all__ = ["Mantel", "Paired", "entropy", "linkage", "mantel", "mcnemar", "paired", "wilson"]


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
    return float(min(1.0, 2 * tail / 2**total))


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


def entropy(values: Float64[Tensor, "*neurons languages"]) -> Float64[Tensor, "*neurons"]:
    """Entropy (nats) of non-negative values normalised over the last axis; NaN where all are zero."""
    share = values / values.sum(-1, keepdim=True)
    terms: Tensor = torch.special.xlogy(share, share)
    return -terms.sum(-1)


Z = 1.959964  # of a two-sided 95 % interval


def _wilson(p: Float64[Tensor, "*any languages"], n: Float64[Tensor, " languages"]) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a share p of n."""
    scale = 1 + Z * Z / n
    centre = (p + Z * Z / (2 * n)) / scale
    half = Z / scale * (p * (1 - p) / n + Z * Z / (4 * n * n)).sqrt()
    return centre - half, centre + half


def wilson(count: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson's score), as if tokens were independent, which flatters it."""
    if total == 0:
        return 0.0, 1.0
    share = count / total
    middle = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal values sharing the mean of theirs."""
    order = np.sort(values)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right") - 1) / 2


Weights = Float64[Tensor, "draws samples"]


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


Matrix = Float64[Tensor, "languages languages"]


@dataclass(frozen=True)
class Mantel:
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


def linkage(distance: Matrix) -> list[tuple[int, int, float, int]]:
    """Average-linkage clustering (UPGMA) of a symmetric distance matrix, for a dendrogram.

    Returns:
        K - 1 merges, nearest first: the two clusters (the K languages are 0 … K - 1, the i-th merge makes K + i),
        their distance, and how many languages are now together. Of equal distances the first is merged first.
    """
    between = distance.to(torch.float64).clone()
    between.fill_diagonal_(torch.inf)
    names, sizes = list(range(len(between))), [1] * len(between)
    merges = []
    for step in range(len(between) - 1):
        at = int(between.argmin())
        a, b = sorted(divmod(at, len(between)))
        merges.append((names[a], names[b], float(between[a, b]), sizes[a] + sizes[b]))
        row = (sizes[a] * between[a] + sizes[b] * between[b]) / (sizes[a] + sizes[b])
        between[a], between[:, a] = row, row
        between[a, a] = torch.inf
        between[b], between[:, b] = torch.inf, torch.inf
        names[a], sizes[a] = len(distance) + step, sizes[a] + sizes[b]
    return merges
