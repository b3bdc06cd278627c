"""Figures for papers: each function draws one and returns it."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from PIL import Image

from neuroglot.evaluate import Perturbation
from neuroglot.files import whole
from neuroglot.languages import language_name
from neuroglot.neurons import NeuronSet

__all__ = [
    "change_text",
    "layer_figure",
    "method_name",
    "overlap_figure",
    "perturbation_figure",
    "ratio_ticks",
    "save_figure",
]

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}
CELL = 0.52  # inches
COLOURS = "YlGnBu"  # pale to dark in lightness too, so that it survives grey print and colour blindness


def method_name(method: str) -> str:
    """How a method is written in a sentence: LAPE, key-region, random."""
    return {"regions": "key-region"}.get(method, method.upper() if len(method) <= 4 else method)


def _named(tag: str) -> str:
    return f"{language_name(tag)} ({tag})"


def _canvas(
    columns: int, rows: float, left: float, right: float, top: float = 0.75, bottom: float = 0.95
) -> tuple[Figure, Axes]:
    """A figure whose one axes has cells of one size, with margins in inches."""
    width, height = left + columns * CELL + right, top + rows * CELL + bottom
    figure = Figure(figsize=(width, height))
    box = (left / width, bottom / height, columns * CELL / width, rows * CELL / height)
    return figure, figure.add_axes(box)


def _readable_on(colour: Any) -> str:
    red, green, blue = colour[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _draws(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def change_text(change: float) -> str:
    """A relative change in at most five characters or so: +0.3%, +45%, ×27, ×3e5."""
    if not np.isfinite(change):
        return "∞"
    if change >= 9_999:
        return f"×{change + 1:.0e}".replace("e+0", "e").replace("e+", "e")
    if change > 9.995:
        return f"×{change + 1:,.0f}"
    return f"{change:+.0%}" if abs(change) >= 0.0995 else f"{change:+.1%}".replace("-0.0%", "0%").replace("+0.0%", "0%")


def ratio_ticks(top: float) -> dict[float, str]:
    """Places on a logarithmic colour bar from 1 to `top`, far enough apart to be read, and what stands there."""
    decades = float(np.log10(top))
    if decades <= 2:
        ticks = [1, 1.5, 2, 3, 5, 10, 30, 100]
    elif decades <= 4:
        ticks = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4]
    else:
        ticks = [10.0**power for power in range(0, int(decades) + 1, 1 + int(decades) // 8)]
    return {tick: change_text(tick - 1)[1:] if tick > 10 else f"{tick:g}" for tick in ticks if tick <= top}


def perturbation_figure(result: Perturbation, title: str = "") -> Figure:
    """The perplexity-change matrix as an annotated heatmap, the random baseline in a row of its own."""
    change, random = result.change, result.random_change
    tags = list(change.columns)
    columns, rows = len(tags), len(change)
    with matplotlib.rc_context(STYLE):
        gap = 0.35
        rivals = [random] if result.matched_change.empty else [random, result.matched_change.reindex(columns=tags)]
        figure, axes = _canvas(columns, rows + gap + len(rivals), left=2.15, right=1.05, top=0.85, bottom=0.2)
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
            labels.append(f"random, the column's\nown size, {_draws(len(result.matched))}")
        axes.set_yticks(places, labels)
        axes.set_ylabel("whose neurons are off, how many")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar_box = axes.get_position()
        bar = figure.add_axes(
            (
                bar_box.x1 + 0.25 / figure.get_figwidth(),
                bar_box.y0,
                0.14 / figure.get_figwidth(),
                bar_box.height,
            )
        )
        ticks = ratio_ticks(top)
        figure.colorbar(mesh, cax=bar, ticks=list(ticks), label="perplexity, × intact")
        bar.minorticks_off()
        bar.set_yticklabels(list(ticks.values()))
        figure.suptitle(title, y=1 - 0.12 / figure.get_figheight(), va="top", fontsize=10)
    return figure


def layer_figure(neurons: NeuronSet, title: str = "") -> Figure:
    """Neurons by layer and language, as a heatmap under the bars of the layers' totals."""
    counts = neurons.counts()
    layers, languages = counts.shape
    with matplotlib.rc_context(STYLE):
        cell = min(0.34, 11 / layers)
        left, right, height = 1.5, 0.9, languages * 0.3
        width = left + layers * cell + right
        total = 0.5 + 1.0 + 0.12 + height + 0.55
        figure = Figure(figsize=(width, total))
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
        axes.set_xlabel("layer")
        axes.set_yticks(range(languages), [_named(tag) for tag in counts.columns])
        axes.tick_params(length=0)
        bars.bar(range(layers), neurons.union().sum(1).numpy(), color="#4c5b7c", width=0.8)
        bars.set_ylabel("of any\nlanguage")
        bars.tick_params(axis="x", length=0, labelbottom=False)
        colour_bar = figure.add_axes((box[0] + box[2] + 0.15 / width, box[1], 0.12 / width, box[3]))
        figure.colorbar(mesh, cax=colour_bar, label="neurons")
        figure.suptitle(title, y=1 - 0.12 / total, va="top", fontsize=10)
    return figure


def overlap_figure(neurons: NeuronSet, title: str = "") -> Figure:
    """How much the languages' sets overlap: Jaccard index of every pair."""
    overlap: pd.DataFrame = neurons.overlap()
    size = len(overlap)
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(size, size, left=1.5, right=1.0, top=0.68, bottom=0.15)
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
        bar = figure.add_axes((box.x1 + 0.2 / figure.get_figwidth(), box.y0, 0.14 / figure.get_figwidth(), box.height))
        figure.colorbar(mesh, cax=bar, label="Jaccard index")
        figure.suptitle(title, y=1 - 0.12 / figure.get_figheight(), va="top", fontsize=10)
    return figure


def _reduce(path: Path) -> None:
    """Rewrite a PNG with 256 colours, rare ones among them, in about half the bytes; nobody sees the difference."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(path, format="PNG", optimize=True)


def save_figure(figure: Figure, directory: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF.

    Raises:
        NeuroglotError: the directory cannot be written.
    """
    paths = []
    for kind in ("png", "pdf"):
        path = Path(directory) / f"{name}.{kind}"
        with whole(path) as draft:
            # no dates inside, so that the same run gives the same bytes
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(draft, format=kind, dpi=160, metadata=metadata)
            if kind == "png":
                _reduce(draft)
        paths.append(path)
    return paths
