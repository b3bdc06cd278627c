"""Figures of the comparison of methods: matrices side by side, budget curves, how much text is enough."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.figures.style import COLOURS, STYLE, name_lowest, surface, whole
from neuroglot.figures.words import change_text, ratio_ticks
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.tags import language_name

__all__ = ["budget_figure", "curve_figure", "matrices_figure", "text_figure"]

LINES = ["#d1495b", "#1b6ca8", "#e0a030", "#3c8d5a", "#7a5195", "#5b6770", "#a05a2c", "#9aa5ab", "#111111"]


def matrices_figure(result: Comparison, conditions: list[str], title: str = "", *, ax: Axes | None = None) -> Figure:
    """The perplexity-change matrices of several methods, all on one scale."""
    size, columns = len(result.languages), math.isqrt(max(0, len(conditions) - 1)) + 1
    rows = -(-len(conditions) // columns)
    changes = {name: result.effects(name).exp().numpy() for name in conditions}
    top = max(2.0, max(float(values[np.isfinite(values)].max()) for values in changes.values()))
    norm, colours = LogNorm(1.0, min(top, 1e4), clip=True), matplotlib.colormaps[COLOURS]
    with matplotlib.rc_context(STYLE):
        figure = surface((1.5 + columns * (0.45 + 0.37 * size), 0.7 + rows * (0.65 + 0.3 * size)), ax)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(conditions) :]:
            axes.set_visible(False)
        for place, (axes, (name, ratios)) in enumerate(zip(grid.flat, changes.items(), strict=False)):
            mesh = axes.imshow(ratios, cmap=colours, norm=norm, aspect="auto")
            for (y, x), ratio in np.ndenumerate(ratios):
                red, green, blue, _ = colours(norm(ratio))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
                text = change_text(float(ratio) - 1)
                axes.text(x, y, text, ha="center", va="center", fontsize=5.5, color="white" if dark else "black")
            for own in range(size):
                box = matplotlib.patches.Rectangle(
                    (own - 0.46, own - 0.46), 0.92, 0.92, fill=False, ec="#d1495b", lw=1.1
                )
                axes.add_patch(box)
            axes.set_title(method_title(result.conditions[name]["method"]), fontsize=9)
            axes.set_xticks(range(size), result.languages)
            axes.set_yticks(range(size), result.languages)
            axes.tick_params(length=0, labelsize=7.5)
            if place % columns == 0:
                axes.set_ylabel("whose are off")
            if place >= len(conditions) - columns:
                axes.set_xlabel("language measured")
            for spine in axes.spines.values():
                spine.set_visible(False)
        ticks = ratio_ticks(float(norm.vmax or 1))
        bar = figure.colorbar(mesh, ax=grid, ticks=list(ticks), label="perplexity, × intact", shrink=0.7, pad=0.015)
        bar.ax.minorticks_off()
        bar.set_ticklabels(list(ticks.values()))
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def curve_figure(summary: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """What each method does as the budget grows: on target, off target, and their ratio."""
    table = summary[(summary.part == "all") & summary.budget.notna()].sort_values("budget")
    methods = [name for name, rows in table.groupby("method", sort=False) if rows.budget.nunique() > 1]
    with matplotlib.rc_context(STYLE):
        figure = surface((7.6, 3.1), ax)
        left, right = figure.subplots(1, 2)
        for colour, method in zip(LINES, methods, strict=False):
            rows = table[table.method == method]
            share = 100 * rows.budget
            left.plot(share, rows.on_target, color=colour, marker="o", ms=3, label=method_title(str(method)))
            left.plot(share, rows.off_target, color=colour, marker="o", ms=3, ls="--", mfc="white")
            _selectivity_line(right, share.to_numpy(), rows, colour)
        _selectivity_axes(right)
        left.set_ylabel("nats a token lost\n(— on target, - - off target)")
        left.set_yscale("symlog", linthresh=0.1)
        left.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.set_xlabel("neurons a language, % of all")
            _budget_axis(axes, sorted({100 * budget for budget in table.budget}))
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _budget_axis(axes: Axes, shares: Sequence[float]) -> None:
    """A log axis of budgets, in per cent, with a tick at each; of many at every second, third …"""
    axes.set_xscale("log")
    axes.set_xticks([*shares][:: 1 + len(shares) // 8])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _selectivity_line(axes: Axes, x: np.ndarray, rows: pd.DataFrame, colour: str) -> None:
    """Selectivity and its interval; what is infinite or no ratio is left out."""
    value = rows.selectivity.to_numpy(dtype=float)
    low, high = rows.selectivity_low.to_numpy(dtype=float), rows.selectivity_high.to_numpy(dtype=float)
    shown = np.isfinite(value) & (value > 0)
    axes.plot(x[shown], value[shown], color=colour, marker="o", ms=3)
    top = np.where(np.isposinf(high), 1e4, high)  # an end that is not known draws nothing
    axes.fill_between(x[shown], np.maximum(low[shown], 0.1), top[shown], color=colour, alpha=0.12, lw=0)


def _selectivity_axes(axes: Axes) -> None:
    """The axis of selectivities, once all lines are drawn: as far as their points reach, not their intervals."""
    points = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.ones(1)])
    axes.axhline(1, color="#999999", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_ylim(0.4, 2 * max(5.0, float(points.max(initial=1.0))))
    axes.set_ylabel("selectivity (on target / off target)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def budget_figure(result: Comparison, method: str, title: str = "", *, ax: Axes | None = None) -> Figure:
    """The effect on every language as the share of one language's neurons grows (Tang et al. 2024, Figure 4)."""
    conditions = sorted(
        (what["budget"], name)
        for name, what in result.conditions.items()
        if what["method"] == method and what["part"] == "all" and what["budget"] is not None
    )
    share = [100 * budget for budget, _ in conditions]
    effects = np.stack([result.effects(name).numpy() for _, name in conditions])  # budgets, off, measured
    size = len(result.languages)
    columns = min(3, size)
    with matplotlib.rc_context(STYLE):
        figure = surface((7.6, 0.5 + 2.0 * -(-size // columns)), ax)
        grid = figure.subplots(-(-size // columns), columns, squeeze=False, sharex=True, sharey=True)
        for off, (axes, tag) in enumerate(zip(grid.flat, result.languages, strict=False)):
            for measured, other in enumerate(result.languages):
                own = measured == off
                colour = LINES[measured % len(LINES)]
                axes.plot(
                    share,
                    effects[:, off, measured],
                    color=colour,
                    lw=2.2 if own else 0.9,
                    ls="-" if own else "--",
                    label=other,
                )
            axes.set_title(f"{language_name(tag)} off", fontsize=9)
            axes.set_yscale("symlog", linthresh=0.1)
            _budget_axis(axes, share)
        for axes in grid[:, 0]:
            axes.set_ylabel("nats a token lost")
        name_lowest(grid, size, "neurons, % of all")
        grid.flat[0].legend(frameon=False, fontsize=7, ncols=2)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def text_figure(
    result: Comparison, summary: pd.DataFrame, budget: float, title: str = "", *, ax: Axes | None = None
) -> Figure:
    """How much text is enough: how alike the sets of so many tokens are to those of all, and what they do."""
    with matplotlib.rc_context(STYLE):
        measured = bool(summary.part.str.endswith(" tokens").any())
        figure = surface((7.6 if measured else 4.2, 3.1), ax)
        left, *rest = figure.subplots(1, 1 + measured, squeeze=False)[0]
        ticks: set[int] = set()
        for colour, method in zip(
            LINES, dict.fromkeys(what["method"] for what in result.conditions.values()), strict=False
        ):
            found = result.stability.get(f"{method} {budget:g}", {})
            points = sorted((int(part.split()[0]), value) for part, value in found.items() if part.endswith(" tokens"))
            ticks |= {tokens for tokens, _ in points}
            if points:
                left.plot(*zip(*points, strict=True), color=colour, marker="o", ms=3, label=method_title(method))
            rows = summary[(summary.method == method) & summary.part.str.endswith(" tokens")].copy()
            if len(rows):
                rows["tokens"] = rows.part.str.split().str[0].astype(int)
                rows = rows.sort_values("tokens")
                _selectivity_line(rest[0], rows.tokens.to_numpy(), rows, colour)
        left.set_ylabel("Jaccard index with\nthe sets of all text")
        left.set_ylim(0, 1.02)
        left.legend(frameon=False, fontsize=8)
        for axes in rest:
            _selectivity_axes(axes)
        for axes in (left, *rest):
            axes.set_xscale("log")
            axes.set_xlabel("tokens a language")
            axes.set_xticks(sorted(ticks), [f"{tokens:,}" for tokens in sorted(ticks)])
            axes.xaxis.set_minor_formatter(NullFormatter())
        figure.suptitle(title, fontsize=10)
    return whole(figure)
