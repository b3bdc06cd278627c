"""Figures of experts: activation patterns, shared experts, the similarity of languages, and tuning."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from neuroglot.experts.frequency import HIGH, counts
from neuroglot.experts.similarity import Similarity
from neuroglot.figures.style import STYLE, name_lowest, surface, whole
from neuroglot.languages.genealogy import genealogy
from neuroglot.languages.tags import language_name
from neuroglot.stats import linkage

__all__ = ["change_figure", "expert_similarity_figure", "pattern_figure", "shared_figure"]

Frequencies = Float64[Tensor, "languages layers experts"]


def pattern_figure(
    frequencies: Frequencies,
    languages: tuple[str, ...],
    title: str = "",
    *,
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """One L × E heatmap a language (Figure 1), all on one scale: the darker, the more often activated.

    The scale ends at the 99th percentile, so that a few experts that are nearly always on do not bleach the others.

    Args:
        frequencies: of each expert.
        languages: of the panels.
        title: of the figure.
        layers: which these are, from 0, where not all of the model's have experts.
        ax: to draw into.
    """
    top = float(np.quantile(frequencies.numpy(), 0.99)) or 1.0
    label = "share of tokens on which the expert is activated"
    return _panels(frequencies, languages, title, label, "Reds", 0, top, layers=layers, ax=ax)


def change_figure(
    change: Frequencies,
    languages: tuple[str, ...],
    title: str = "",
    *,
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """The change of frequency under tuning (Figure 4): red is more, blue is less; as `pattern_figure`."""
    top = float(np.quantile(change.abs().numpy(), 0.995)) or 1.0
    label = "frequency of the tuned variant − of the base"
    return _panels(change, languages, title, label, "RdBu_r", -top, top, layers=layers, ax=ax)


def _panels(
    values: Frequencies,
    languages: tuple[str, ...],
    title: str,
    label: str,
    colours: str,
    low: float,
    high: float,
    *,
    layers: Sequence[int] | None,
    ax: Axes | None = None,
) -> Figure:
    columns = min(3, len(languages))
    rows = -(-len(languages) // columns)
    numbers = range(values.shape[1]) if layers is None else layers
    with matplotlib.rc_context(STYLE):
        height = max(0.9, min(2.4, 0.075 * len(numbers)))
        figure = surface((1.1 + 3.5 * columns, 1.0 + rows * (height + 0.55)), ax)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, tag, matrix in zip(grid.flat, languages, values.numpy(), strict=False):
            mesh = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            axes.set_title(f"{language_name(tag)} ({tag})", fontsize=9)
            _layer_ticks(axes, numbers)
        for axes in grid[:, 0]:
            axes.set_ylabel("layer")
        name_lowest(grid, len(languages), "expert")
        figure.colorbar(mesh, ax=grid, label=label, shrink=0.8, pad=0.015, extend="both" if low < 0 else "max")
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def shared_figure(
    frequencies: Frequencies,
    title: str = "",
    threshold: float = HIGH,
    *,
    layers: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """In how many languages each expert is high-frequency (Figure 3), beside the share shared by all in each layer.

    Args:
        frequencies: of each expert.
        title: of the figure.
        threshold: from which frequency on one is high-frequency.
        layers: which these are, from 0, where not all of the model's have experts.
        ax: to draw into.
    """
    number, many = counts(frequencies, threshold), len(frequencies)
    numbers = range(number.shape[0]) if layers is None else layers
    with matplotlib.rc_context(STYLE):
        figure = surface((9, max(2.6, 1.3 + 0.13 * len(numbers))), ax)
        axes, bars = figure.subplots(1, 2, width_ratios=(5, 1), sharey=True)
        colours = ListedColormap(matplotlib.colormaps["Blues"](np.linspace(0.0, 1.0, many + 1)))
        mesh = axes.imshow(
            number.numpy(), cmap=colours, vmin=-0.5, vmax=many + 0.5, aspect="auto", interpolation="nearest"
        )
        _layer_ticks(axes, numbers)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.set_xlabel("expert")
        axes.set_ylabel("layer")
        bars.barh(range(len(numbers)), (number == many).double().mean(1).numpy(), color="#4c5b7c", height=0.8)
        bars.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        bars.set_xlabel(f"of all {many} languages")
        bars.tick_params(axis="y", length=0, labelleft=False)
        figure.colorbar(mesh, ax=axes, ticks=range(0, many + 1, max(1, many // 9)), label="languages", pad=0.01)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _layer_ticks(axes: Axes, numbers: Sequence[int]) -> None:
    step = max(1, len(numbers) // 6)
    axes.set_yticks(range(0, len(numbers), step), [str(number + 1) for number in numbers[::step]])
    axes.tick_params(length=2)


MEASURES = {
    "euclidean": "Euclidean distance",
    "kl": "KL divergence (nats), row from column",
    "pearson": "Pearson correlation",
}


def expert_similarity_figure(
    similarity: Similarity, languages: tuple[str, ...], title: str = "", *, ax: Axes | None = None
) -> Figure:
    """The three measures of every pair (Figure 2), each ordered by its dendrogram (average linkage), which is above it.

    Darker is more alike. The colour of a language's tag is that of its genus.
    """
    size = len(languages)
    places = [genealogy(tag) for tag in languages]
    genera = sorted({place.genus for place in places if place})
    palette = matplotlib.colormaps["tab10" if len(genera) <= 10 else "tab20"]
    colour = {genus: palette(i % palette.N) for i, genus in enumerate(genera)}
    with matplotlib.rc_context(STYLE):
        cell = max(0.3, min(0.42, 9 / size))
        letters = 20 * cell  # four of them fill two thirds of a cell
        figure = surface((3 * (cell * size + 1.3), cell * size + 2.3), ax)
        grid = figure.subplots(2, 3, height_ratios=(1, cell * size), gridspec_kw={"hspace": 0.02})
        for (tree, axes), (name, words) in zip(grid.T, MEASURES.items(), strict=True):
            order = _dendrogram(tree, similarity.distances()[name])
            values = getattr(similarity, name).numpy()[np.ix_(order, order)]
            hidden = np.where(np.eye(size, dtype=bool), np.nan, values)
            colours = "Purples" if name == "pearson" else "Purples_r"
            mesh = axes.imshow(hidden, cmap=colours, aspect="auto")
            axes.set_facecolor("#f4f4f4")
            for (y, x), value in np.ndenumerate(hidden):
                if np.isfinite(value):
                    depth = mesh.norm(value) if name == "pearson" else 1 - mesh.norm(value)
                    text = f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 10 else f"{value:.0f}"
                    white = depth > 0.55
                    axes.text(
                        x, y, text, ha="center", va="center", fontsize=letters, color="white" if white else "black"
                    )
            tags = [languages[i] for i in order]
            axes.set_xticks(range(size), tags)
            axes.set_yticks(range(size), tags)
            axes.tick_params(length=0)
            for label, index in zip([*axes.get_xticklabels(), *axes.get_yticklabels()], [*order, *order], strict=True):
                if place := places[index]:
                    label.set_color(colour[place.genus])
                    label.set_fontweight("bold")
            tree.set_title(words, fontsize=9)
        handles = [matplotlib.patches.Patch(color=colour[genus], label=genus) for genus in genera]
        figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(8, len(genera))), frameon=False)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _dendrogram(axes: Axes, distance: Float64[Tensor, "languages languages"]) -> list[int]:
    """Draw the tree, and give the languages in the order of its leaves."""
    size = len(distance)
    leaves: dict[int, list[int]] = {i: [i] for i in range(size)}
    merges = linkage(distance)
    for step, (a, b, _, _) in enumerate(merges):
        leaves[size + step] = leaves[a] + leaves[b]
    order = leaves[size + len(merges) - 1]
    at = {leaf: (float(x), 0.0) for x, leaf in enumerate(order)}
    for step, (a, b, height, _) in enumerate(merges):
        (xa, ya), (xb, yb) = at[a], at[b]
        axes.plot([xa, xa, xb, xb], [ya, height, height, yb], color="#4c5b7c", lw=1)
        at[size + step] = ((xa + xb) / 2, height)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(0, None)
    axes.axis("off")
    return order
