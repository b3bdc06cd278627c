"""LRDS, SADS and SKLR (Zeng et al. 2025, §3.2), whole and by layer, with bootstrap confidence intervals."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.alignment.sentence_similarity import state_similarity
from neuroglot.alignment.similarity import Pairs, check_comparable, layer_pairs, normalised, pairs_of, whole_pairs
from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.samples import Samples
from neuroglot.identify.key_regions import region_sizes
from neuroglot.stats import Weights, bootstrap_weights, interval
from neuroglot.storage.given import takes_numbers

__all__ = ["by_layer", "lrds", "sads", "sklr", "summary"]


@takes_numbers
def lrds(samples: Samples, layer: int | None = None) -> float:
    """Linguistic regions development score (Zeng et al. 2025, eq. 8): how much the language alone makes samples alike.

    Mean similarity of samples of one language and different meanings, less that of different languages and different
    meanings. Lower is more language-agnostic.

    Args:
        samples: of at least two languages and two meanings.
        layer: of this layer only (from 0); by default of the whole vectors.

    Raises:
        NeuroglotError: one language, one sample, or no such layer.
    """
    return float(_lrds(_pairs(samples, layer), _once(samples))[0])


@takes_numbers
def sads(samples: Samples, layer: int | None = None) -> float:
    """Semantic alignment development score (Zeng et al. 2025, eq. 9): how much the meaning alone makes samples alike.

    Mean similarity of samples of different languages and one meaning, less that of different languages and different
    meanings. Arguments and errors are those of `lrds`.
    """
    return float(_sads(_pairs(samples, layer), _once(samples))[0])


def sklr(regions: NeuronSet) -> int:
    """Size of the key linguistic regions (Zeng et al. 2025, §3.2): their sizes added up over languages."""
    return sum(regions.sizes().values())


@takes_numbers
def summary(
    samples: Samples, *, threshold: float | None = None, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """LRDS, SADS and, given a threshold, SKLR of the whole vectors.

    Intervals are percentiles over bootstrap draws of the meanings, each drawn in all languages at once; a pair of one
    meaning with itself is never counted, however often that meaning is drawn. SKLR is drawn a tenth as often, since it
    reads every neuron again; and since a draw holds only some of the meanings, and SKLR counts what passes a threshold,
    its interval may lie a little beside its value. Intervals cover the choice of meanings, not of languages.

    Args:
        samples: of at least two languages and two meanings.
        threshold: of `identify.key_regions`.
        draws: how many; 0 for values without intervals.
        level: of confidence, in (0, 1).
        seed: of the draws.

    Returns:
        A row a score; columns value, low, high.

    Raises:
        NeuroglotError: one language or one sample, or a setting is out of range.
    """
    weights = _weights(samples, draws, seed)
    pairs = whole_pairs(samples)
    rows = {"lrds": _with_interval(_lrds(pairs, weights), level), "sads": _with_interval(_sads(pairs, weights), level)}
    if threshold is not None:
        sizes = region_sizes(samples, threshold, weights[: 1 + draws // 10]).sum((1, 2))
        rows["sklr"] = _with_interval(sizes.to(torch.float64), level)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]).rename_axis("score")


@takes_numbers
def by_layer(
    samples: Samples, *, threshold: float | None = None, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """LRDS, SADS and, given a threshold, SKLR of each layer; SES too where the samples have states.

    Each layer's slice is normalised by itself. Arguments and errors are those of `summary`.

    Returns:
        A row a layer, from 1 as the papers count them; for each score its value, `_low` and `_high`. `ses` is
        `alignment.ses` (Tang et al. 2024, §3.3.2); `ses_margin` is what of it is meaning: the same less the mean
        similarity of different meanings in different languages.
    """
    check_comparable(samples)
    weights = _weights(samples, draws, seed)
    rows = []
    for layer, pairs in enumerate(layer_pairs(samples)):
        scores = {"lrds": _lrds(pairs, weights), "sads": _sads(pairs, weights)}
        if samples.states is not None:
            between = pairs_of(normalised(samples.states[:, :, layer].to(torch.float64)))
            scores["ses"] = state_similarity(between, weights)
            scores["ses_margin"] = _sads(between, weights)
        row: dict[str, float] = {}
        for name, values in scores.items():
            row[name], row[f"{name}_low"], row[f"{name}_high"] = _with_interval(values, level)
        rows.append(row)
    if threshold is not None:
        sizes = region_sizes(samples, threshold, weights[: 1 + draws // 10]).sum(1).to(torch.float64)
        for row, values in zip(rows, sizes.T, strict=True):
            row["sklr"], row["sklr_low"], row["sklr_high"] = _with_interval(values, level)
    return pd.DataFrame(rows, index=pd.RangeIndex(1, samples.layers + 1, name="layer"))


def _weights(samples: Samples, draws: int, seed: int) -> Weights:
    """Draws of the meanings; none of two meanings, since every draw that holds both gives the same value."""
    return bootstrap_weights(len(samples), draws if len(samples) > 2 else 0, seed)


def _lrds(pairs: Pairs, weights: Weights) -> Float64[Tensor, " draws"]:
    within, between = pairs
    return _off_diagonal(within - between, weights)


def _sads(pairs: Pairs, weights: Weights) -> Float64[Tensor, " draws"]:
    _, between = pairs
    return state_similarity(pairs, weights) - _off_diagonal(between, weights)


def _off_diagonal(table: Float64[Tensor, "samples samples"], weights: Weights) -> Float64[Tensor, " draws"]:
    """The weighted mean over pairs of different meanings; NaN for a draw of one meaning only."""
    apart = table - table.diagonal().diag()
    return ((weights @ apart) * weights).sum(1) / (weights.sum(1) ** 2 - (weights**2).sum(1))


def _pairs(samples: Samples, layer: int | None) -> Pairs:
    check_comparable(samples)
    if layer is None:
        return whole_pairs(samples)
    return pairs_of(normalised(samples.layer(layer)))


def _once(samples: Samples) -> Weights:
    return torch.ones(1, len(samples), dtype=torch.float64)


def _with_interval(values: Float64[Tensor, " draws"], level: float) -> Sequence[float]:
    """The first value, and the interval that `level` of the others lie in (NaN if there are none)."""
    return float(values[0]), *interval(values[1:], level)
