"""Figures that only a study of a paper draws: growing sets, shares of experts kept, sizes of regions."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroglot.figures.style import STYLE, surface, whole
from neuroglot.figures.words import change_text
from neuroglot.languages.tags import language_name

__all__ = ["growth_figure", "region_figure", "share_figure"]

RED, BLUE, GREY = "#d1495b", "#2f5d8a", "#8a94a6"


def growth_figure(table: pd.DataFrame, language: str, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Change of every language's perplexity as more neurons of one are off (Tang et al. 2024, Figure 4).

    Args:
        table: a row a share of all neurons that count as language-specific, a column a language measured.
        language: whose neurons are off; its line is drawn thick.
        title: above the figure.
    """
    with matplotlib.rc_context(STYLE):
        figure = surface((6.6, 3.6), ax)
        axes = figure.subplots()
        colours = matplotlib.colormaps["tab10"]
        for i, tag in enumerate(table.columns):
            own = tag == language
            axes.plot(
                table.index, table[tag], marker="o", ms=4, lw=2.4 if own else 1.2, zorder=3 if own else 2,
                color=RED if own else colours((i + 4) % 10), label=language_name(str(tag)),
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(list(table.index), [f"{100 * share:g} %" for share in table.index], minor=False)
        axes.minorticks_off()
        axes.set_yscale("symlog", linthresh=0.1)
        lowest, highest = float(table.to_numpy().min()), float(table.to_numpy().max())
        axes.set_ylim(min(-0.05, 1.5 * lowest), max(0.05, 1.5 * highest))
        _change_axis(axes, highest)
        axes.axhline(0, color=GREY, lw=0.6)
        axes.set_xlabel("neurons of the model that count as language-specific")
        axes.set_ylabel("change of perplexity")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _change_axis(axes: Axes, highest: float) -> None:
    """Ticks of a change that may be of many orders: 0%, +10%, +100%, then ×10, ×100 … in few enough steps."""
    orders = range(1, max(2, int(np.log10(highest + 1)) + 1)) if highest > 9 else range(0)
    orders = orders[:: max(1, -(-len(orders) // 6))]
    small = {change: change_text(change) for change in (0.0, 0.1, 1.0)}
    large = {10.0**order - 1: f"×{10**order:,}" if order < 4 else f"×1e{order}" for order in orders}
    axes.set_yticks(list(small | large), list((small | large).values()))


def share_figure(table: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Perplexity by share of each layer's experts kept, beside random ones (Liu et al. 2024, Figure 5).

    Args:
        table: as `evaluate.pruning_table` gives it, of choices `share 0.7`, …; a panel a language.
        title: above the figure.
    """
    tags = list(dict.fromkeys(table.language))
    columns = min(3, len(tags))
    rows = -(-len(tags) // columns)
    with matplotlib.rc_context(STYLE):
        figure = surface((1 + 2.6 * columns, 1.1 + 2.2 * rows), ax)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(tags) :]:
            axes.set_visible(False)
        for axes, tag in zip(grid.flat, tags, strict=False):
            of = table[table.language == tag].sort_values("proportion")
            share, random = of.proportion.astype(float), of.random.astype(float)
            spread = of.random_std.astype(float).fillna(0)
            axes.plot(share, of.experts.astype(float), "o-", ms=4, color=RED, label="its most frequent experts")
            axes.plot(share, random, "s--", ms=4, color=GREY, label="random experts, as many, ± std")
            axes.axhline(float(of.original.iloc[0]), color=BLUE, lw=1, ls=":", label="the whole model")
            axes.set_yscale("log")
            # the deviation may be more than the mean, which no logarithm shows: then the band leaves at the bottom
            bottom, top = axes.get_ylim()
            low, high = np.maximum(random - spread, bottom), random + spread
            axes.fill_between(share, low, high, color=GREY, alpha=0.2, lw=0)
            axes.set_ylim(bottom, max(top, float(high.max()) * 1.2))
            axes.set_xticks(list(share), [f"{value:.0%}" for value in share])
            axes.set_title(f"{language_name(tag)} ({tag})", fontsize=9)
        for axes in grid[:, 0]:
            axes.set_ylabel("perplexity")
        for axes in grid[-1]:
            axes.set_xlabel("experts kept in each layer")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def region_figure(sizes: pd.Series, total: int, title: str = "", *, ax: Axes | None = None) -> Figure:
    """How many neurons each language's key region has (Zeng et al. 2025, Figure 6), of `total` in the model."""
    with matplotlib.rc_context(STYLE):
        figure = surface((6.4, 0.9 + 0.28 * len(sizes)), ax)
        axes = figure.subplots()
        places = np.arange(len(sizes))
        axes.barh(places, sizes.to_numpy(), color=BLUE, height=0.65)
        for y, value in zip(places, sizes, strict=True):
            axes.annotate(f"{value:,} ({value / total:.1%})", (value, y), xytext=(5, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(places, [f"{language_name(str(tag))} ({tag})" for tag in sizes.index])
        axes.invert_yaxis()
        axes.margins(x=0.22)
        axes.set_xlabel("neurons")
        figure.suptitle(title, fontsize=10)
    return whole(figure)
