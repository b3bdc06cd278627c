"""The atlas: every neuron of every layer at once, in bins of neighbours, by language."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, Shaped
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.figures.screen import Plot, heatmap
from neuroglot.languages.tags import named

__all__ = ["BINS", "atlas_plot", "atlas_plots", "bin_edges", "binned", "counted"]

BINS = 128
"""Columns of the atlas at most: more could not be told apart on a screen."""


def bin_edges(neurons: int, bins: int = BINS) -> Int64[np.ndarray, " edges"]:
    """Where bins begin, and the end: sizes differ by at most one."""
    bins = min(bins, neurons)
    return np.arange(bins + 1) * neurons // bins


def binned(
    values: Float[Tensor, "layers neurons *rest"], there: Bool[Tensor, "layers neurons"], bins: int = BINS
) -> Float32[np.ndarray, "layers bins *rest"]:
    """The mean of each bin's neurons; NaN where a narrower layer has none."""
    sums, sizes = _sums(values, bins), _sums(there, bins)
    with np.errstate(invalid="ignore"):
        means = sums / sizes.reshape(*sizes.shape, *[1] * (sums.ndim - 2))
    result: Float32[np.ndarray, "layers bins *rest"] = means.astype(np.float32)
    return result


def counted(
    mask: Bool[Tensor, "layers neurons"], there: Bool[Tensor, "layers neurons"], bins: int = BINS
) -> Float32[np.ndarray, "layers bins"]:
    """How many of each bin's neurons are in a mask; NaN where a narrower layer has no neurons."""
    return np.where(_sums(there, bins) > 0, _sums(mask, bins), np.nan).astype(np.float32)


def _sums(values: Shaped[Tensor, "layers neurons *rest"], bins: int) -> Float64[np.ndarray, "layers bins *rest"]:
    edges = bin_edges(values.shape[1], bins)
    sums: Float64[np.ndarray, "layers bins *rest"]
    sums = np.add.reduceat(values.to(torch.float64).numpy(), edges[:-1], axis=1)
    return sums


def atlas_plot(
    values: Float32[np.ndarray, "layers bins"],
    neurons: int,
    *,
    label: str,
    apart: bool = False,
    high: float | None = None,
    column: str = "neurons",
) -> Plot:
    """Layers by bins.

    Args:
        values: of each bin.
        neurons: how many a layer.
        label: what the values are.
        apart: whether they lie on both sides of 0.
        high: where the scale ends.
        column: what a column holds, `neurons` or `experts`.
    """
    layers, bins = values.shape
    edges = bin_edges(neurons, bins)
    ranges = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in pairwise(edges.tolist())]
    plot = heatmap(
        values,
        x=ranges,
        y=list(range(1, layers + 1)),
        hover=f"layer %{{y}}<br>{column} %{{x}}<br>{label} %{{z:.4f}}",
        x_title=column,
        y_title="layer",
        label=label,
        low=0,
        high=high,
        apart=apart,
        height=130 + max(180, min(620, 14 * layers)),
    )
    shown = range(0, bins, max(1, bins // 8))
    ticks = {"tickvals": [ranges[place] for place in shown], "ticktext": [str(edges[place]) for place in shown]}
    plot["layout"]["xaxis"] |= {"side": "bottom", "tickangle": 0, **ticks}
    return plot


def atlas_plots(recording: Recording, bins: int = BINS) -> dict[str, Plot]:
    """For each language its activation probabilities, then how far they are above the mean of all languages."""
    values = binned(recording.probabilities, recording.exists, bins)
    apart = values - values.mean(-1, keepdims=True)
    end = float(np.nanquantile(np.abs(apart), 0.999)) or 1.0
    plots = {
        named(tag): atlas_plot(values[..., k], recording.neurons, label=f"active share, {tag}", high=1.0)
        for k, tag in enumerate(recording.languages)
    }
    return plots | {
        f"{named(tag)}, less the mean of all": atlas_plot(
            apart[..., k], recording.neurons, label=f"active share, {tag} less mean", apart=True, high=end
        )
        for k, tag in enumerate(recording.languages)
    }
