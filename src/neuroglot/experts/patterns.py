"""Activation patterns of languages beside one another, and beside the families the languages come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.genealogy import genealogy

__all__ = ["Mantel", "Similarity", "compare", "linkage", "mantel", "relatedness"]

Matrix = Float64[Tensor, "languages languages"]


@dataclass(frozen=True, eq=False)
class Similarity:
    """Three measures of every pair of activation matrices (Liu et al. 2024, §4.2 and Figure 2).

    Attributes:
        euclidean: Frobenius distance.
        kl: KL divergence (nats) of the row language from the column language, summed over layers; not symmetric.
        pearson: correlation of a layer's experts, mean over layers.
        smoothing: what was added to every frequency for `kl`.
    """

    euclidean: Matrix
    kl: Matrix
    pearson: Matrix
    smoothing: float

    def distances(self) -> dict[str, Matrix]:
        """Each measure as a symmetric distance: `kl` as the mean of both directions, `pearson` as 1 - r."""
        return {"euclidean": self.euclidean, "kl": (self.kl + self.kl.T) / 2, "pearson": 1 - self.pearson}


def compare(frequencies: Float64[Tensor, "languages layers experts"], *, smoothing: float = 1e-4) -> Similarity:
    """Compare the activation matrices of every pair of languages.

    For KL each layer's frequencies, with `smoothing` added to every one, are divided by their sum: a frequency of
    zero would make the divergence infinite. In a layer whose frequencies are all equal there is no correlation; it is
    left out of a pair's mean.

    Raises:
        NeuroglotError: `smoothing` is not above 0.
    """
    if smoothing <= 0:
        raise NeuroglotError(f"smoothing must be above 0, not {smoothing:g}: a frequency of 0 has no logarithm.")
    values = frequencies.to(torch.float64)
    euclidean = torch.stack([(values - one).square().sum((1, 2)).sqrt() for one in values])
    shares = (values + smoothing) / (values + smoothing).sum(2, keepdim=True)
    kl = torch.xlogy(shares, shares).sum((1, 2))[:, None] - torch.einsum("ale,ble->ab", shares, shares.log())
    apart = values - values.mean(2, keepdim=True)
    lengths = apart.square().sum(2)
    products = torch.einsum("ale,ble->abl", apart, apart)
    pearson = (products / (lengths[:, None] * lengths[None]).sqrt()).nanmean(2)
    return Similarity(euclidean, kl.clamp_min(0), pearson, smoothing)


def relatedness(languages: Sequence[str], by: str = "family") -> Matrix:
    """How far languages are from each other by descent or by writing.

    Args:
        languages: K tags.
        by: `family`: 0 for one genus, 1 for two genera of one family, 2 for two families; `script`: 0 or 1.

    Raises:
        NeuroglotError: a language is not in our table.
    """
    found = {tag: genealogy(tag) for tag in languages}
    unknown = [tag for tag, place in found.items() if place is None]
    if unknown:
        raise NeuroglotError(f"The family of {', '.join(unknown)} is not in our table; leave it out of the comparison.")
    places = [place for place in found.values() if place is not None]
    if by == "script":
        rows = [[float(a.script != b.script) for b in places] for a in places]
    else:
        rows = [[float(a.genus != b.genus) + float(a.family != b.family) for b in places] for a in places]
    return torch.tensor(rows, dtype=torch.float64)


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
