"""Figures for papers: each function draws one and returns it."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.figures.style import COLOURS, STYLE, _canvas, _draws, _readable_on, surface, whole
from neuroglot.figures.words import change_text, ratio_ticks
from neuroglot.languages.tags import language_name

__all__ = ["layer_figure", "overlap_figure", "perturbation_figure"]


def _named(tag: str) -> str:
    return f"{language_name(tag)} ({tag})"


def perturbation_figure(result: Perturbation, title: str = "", *, ax: Axes | None = None) -> Figure:
    """The perplexity-change matrix as an annotated heatmap, the random baseline in a row of its own."""
    change, random = result.change, result.random_change
    tags = list(change.columns)
    columns, rows = len(tags), len(change)
    with matplotlib.rc_context(STYLE):
        gap = 0.35
        rivals = [random] if result.matched_change.empty else [random, result.matched_change.reindex(columns=tags)]
        high = rows + gap + len(rivals)
        figure, axes, size = _canvas(columns, high, left=2.15, right=1.05, top=0.85, bottom=0.2, ax=ax)
        ratios = np.vstack([change.to_numpy(), *(rival.loc[["mean"]].to_numpy() for rival in rivals)]) + 1
        top = max(2.0, float(np.nanmax(np.where(np.isfinite(ratios), ratios, np.nan))))
        norm = LogNorm(1.0, top, clip=True)
        colours = matplotlib.colormaps[COLOURS]
        places = [*range(rows), *(rows + gap + i for i in range(len(rivals)))]
        for y, row in zip(places, ratios, strict=True):
            mesh = axes.imshow(
                np.where(np.isinf(row), top, row)[None, :],
                cmap=colours,
                norm=norm,
                extent=(-0.5, columns - 0.5, y + 0.5, y - 0.5),
                aspect="auto",
            )
        spreads = [None] * rows + [rival.loc["std"].to_numpy() for rival in rivals]
        for y, row, spread in zip(places, ratios, spreads, strict=True):
            for x, ratio in enumerate(row):
                if np.isnan(ratio):
                    continue  # a language that has no neurons of its own to match
                text = change_text(ratio - 1)
                if spread is not None and np.isfinite(spread[x]):
                    text += f"\n±{spread[x]:.1%}" if spread[x] < 9.995 else f"\n± ×{change_text(spread[x] - 1)[1:]}"
                axes.text(
                    x,
                    y,
                    text,
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=_readable_on(colours(norm(ratio))),
                )
        for y, tag in enumerate(change.index):
            if tag in change.columns:
                x = list(change.columns).index(tag)
                axes.add_patch(
                    matplotlib.patches.Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, fill=False, ec="#d1495b", lw=1.6)
                )
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(places[-1] + 0.5, -0.5)
        axes.set_xticks(range(columns), list(change.columns))
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("language measured")
        labels = [f"{_named(tag)}, {result.sizes[tag]:,}" for tag in change.index]
        labels.append(f"random, {result.sizes['random']:,}\n{_draws(len(result.random))}")
        if len(rivals) > 1:
            labels.append(f"random, matched to\nthe column's size, {_draws(len(result.matched))}")
        axes.set_yticks(places, labels)
        axes.set_ylabel(f"whose {result.units} are off, how many")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar_box = axes.get_position()
        bar = figure.add_axes(
            (
                bar_box.x1 + 0.25 / size[0],
                bar_box.y0,
                0.14 / size[0],
                bar_box.height,
            )
        )
        ticks = ratio_ticks(top)
        figure.colorbar(mesh, cax=bar, ticks=list(ticks), label="perplexity, × intact")
        bar.minorticks_off()
        bar.set_yticklabels(list(ticks.values()))
        figure.suptitle(title, y=1 - 0.12 / size[1], va="top", fontsize=10)
    return whole(figure)


def layer_figure(neurons: NeuronSet, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Neurons, or heads, by layer and language, as a heatmap under the bars of the layers' totals."""
    counts, units = neurons.counts(), neurons.units
    layers, languages = counts.shape
    with matplotlib.rc_context(STYLE):
        cell = min(0.34, 11 / layers)
        left, right, height = 1.5, 0.9, languages * 0.3
        width = left + layers * cell + right
        total = 0.5 + 1.0 + 0.12 + height + 0.55
        figure = surface((width, total), ax, layout=None)
        box = (left / width, 0.55 / total, layers * cell / width, height / total)
        axes = figure.add_axes(box)
        bars = figure.add_axes((box[0], (0.55 + height + 0.12) / total, box[2], 1.0 / total), sharex=axes)
        values = counts.T.to_numpy()
        mesh = axes.imshow(np.where(values > 0, values, np.nan), cmap=COLOURS, aspect="auto", vmin=0)
        axes.set_facecolor("#f4f4f4")
        if cell >= 0.3:
            for (y, x), count in np.ndenumerate(values):
                if count:
                    colour = _readable_on(mesh.cmap(mesh.norm(count)))
                    axes.text(x, y, f"{count}", ha="center", va="center", fontsize=7, color=colour)
        step = max(1, layers // 16)
        axes.set_xticks(range(0, layers, step), [str(i) for i in range(1, layers + 1, step)])
        axes.set_xlabel("layer" if units == "neurons" else "attention")
        axes.set_yticks(range(languages), [_named(tag) for tag in counts.columns])
        axes.tick_params(length=0)
        bars.bar(range(layers), neurons.union().sum(1).numpy(), color="#4c5b7c", width=0.8)
        bars.set_ylabel("of any\nlanguage")
        bars.tick_params(axis="x", length=0, labelbottom=False)
        colour_bar = figure.add_axes((box[0] + box[2] + 0.15 / width, box[1], 0.12 / width, box[3]))
        figure.colorbar(mesh, cax=colour_bar, label=units, ticks=MaxNLocator(integer=True, nbins=5))
        figure.suptitle(title, y=1 - 0.12 / total, va="top", fontsize=10)
    return whole(figure)


def overlap_figure(neurons: NeuronSet, title: str = "", *, ax: Axes | None = None) -> Figure:
    """How much the languages' sets overlap: Jaccard index of every pair."""
    overlap: pd.DataFrame = neurons.overlap()
    size = len(overlap)
    with matplotlib.rc_context(STYLE):
        figure, axes, inches = _canvas(size, size, left=1.5, right=1.0, top=0.68, bottom=0.15, ax=ax)
        values = overlap.to_numpy(copy=True)
        np.fill_diagonal(values, np.nan)
        highest = np.nanmax(values) if np.isfinite(values).any() else 1.0
        mesh = axes.imshow(values, cmap=COLOURS, vmin=0, vmax=max(highest, 0.05), aspect="auto")
        axes.set_facecolor("#f4f4f4")
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = _readable_on(mesh.cmap(mesh.norm(value)))
                axes.text(
                    x,
                    y,
                    f"{value:.2f}".lstrip("0") or "0",
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=colour,
                )
        axes.set_xticks(range(size), list(overlap.columns))
        axes.xaxis.tick_top()
        axes.set_yticks(range(size), [_named(tag) for tag in overlap.index])
        axes.tick_params(length=0)
        box = axes.get_position()
        bar = figure.add_axes((box.x1 + 0.2 / inches[0], box.y0, 0.14 / inches[0], box.height))
        figure.colorbar(mesh, cax=bar, label="Jaccard index")
        figure.suptitle(title, y=1 - 0.12 / inches[1], va="top", fontsize=10)
    return whole(figure)
