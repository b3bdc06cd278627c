"""The figure of how differently a router treats languages, by layer."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from neuroglot.figures.style import STYLE, layer_axis, surface, whole

__all__ = ["pairs_shown", "routing_figure"]

Divergence = Float64[Tensor, "routers languages languages"]
COLOURS = ("#b2403c", "#4c5b7c", "#3d8b6e")


def pairs_shown(divergence: Divergence) -> list[tuple[int, int]]:
    """The pairs that differ most, as the middle one, and least, by their mean over layers."""
    mean = divergence.mean(0)
    pairs = [(i, j) for i in range(len(mean)) for j in range(i)]
    pairs.sort(key=lambda pair: -float(mean[pair]))
    return [pairs[place] for place in dict.fromkeys((0, len(pairs) // 2, len(pairs) - 1))]


def routing_figure(
    divergence: Divergence,
    languages: Sequence[str],
    title: str = "",
    *,
    interval: tuple[Divergence, Divergence] | None = None,
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Routing divergence by layer, and of every pair on average over layers.

    Left: the pairs that differ most, as the middle one, and least, with their intervals; grey is the range of all
    pairs. Right: the mean over layers.

    Args:
        divergence: bits, of every layer that has a router.
        languages: K tags, two at least.
        title: of the figure.
        interval: its ends, if they are known.
        layers: which these are, from 0.
        ax: to draw into.
    """
    size, depth = len(languages), len(divergence)
    numbers = np.array(range(depth) if layers is None else layers) + 1
    below = np.tril_indices(size, -1)
    values = divergence.numpy()
    with matplotlib.rc_context(STYLE):
        cell = max(0.26, min(0.42, 4 / size))
        figure = surface((6.2 + cell * size, max(3.2, cell * size + 1.2)), ax)
        lines, matrix = figure.subplots(1, 2, width_ratios=(4.2, cell * size + 0.6))
        every = values[:, below[0], below[1]]
        lines.fill_between(numbers, every.min(1), every.max(1), color="#dcdfe6", lw=0, label="all pairs")
        for colour, (i, j) in zip(COLOURS, pairs_shown(divergence), strict=False):
            if interval is not None:
                low, high = (end[:, i, j].numpy() for end in interval)
                lines.fill_between(numbers, low, high, color=colour, alpha=0.25, lw=0)
            lines.plot(
                numbers, values[:, i, j], color=colour, marker="o", ms=3, label=f"{languages[j]} – {languages[i]}"
            )
        lines.set_ylabel("Jensen–Shannon divergence (bits)")
        layer_axis(lines)
        lines.set_ylim(0, None)
        lines.legend(frameon=False, fontsize=8)
        mean = np.where(np.eye(size, dtype=bool), np.nan, values.mean(0))
        mesh = matrix.imshow(mean, cmap="Purples", vmin=0, aspect="equal")
        matrix.set_facecolor("#f4f4f4")
        matrix.set_xticks(range(size), languages, rotation=90 if size > 8 else 0)
        matrix.set_yticks(range(size), languages)
        matrix.tick_params(length=0)
        figure.colorbar(mesh, ax=matrix, label="mean over layers (bits)", shrink=0.8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)
