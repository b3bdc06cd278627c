"""Figures of alignment and of its evolution: each function draws one and returns it."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.figures.style import STYLE, layer_axis, surface, whole
from neuroglot.languages.tags import language_name

__all__ = [
    "agreement_figure",
    "dominance_figure",
    "evolution_figure",
    "region_layers_figure",
    "score_figure",
    "ses_figure",
    "similarity_figure",
    "sizes_figure",
]

BLUE, RED, GREEN, GREY = "#2f5d8a", "#d1495b", "#3a7d44", "#8a94a6"


def similarity_figure(
    similarity: Float[Tensor, "rows rows"],
    languages: Sequence[str],
    title: str = "",
    *,
    centred: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """The similarity map: a block a language; equal meanings lie on the diagonals of the blocks.

    Args:
        similarity: as `alignment.similarity_map` gives it.
        languages: of the blocks.
        title: above the figure.
        centred: take each block's row and column means away, which leaves what only meaning (or the same text) makes
            alike: language, length and style of single samples go.

    Colours run from the 1st to the 99.5th percentile of what is not a sample with itself; thin lines part the blocks.
    """
    rows, count = len(similarity), len(similarity) // len(languages)
    blocks = similarity.numpy().reshape(len(languages), count, len(languages), count)
    if centred:
        blocks = (
            blocks - blocks.mean(1, keepdims=True) - blocks.mean(3, keepdims=True) + blocks.mean((1, 3), keepdims=True)
        )
    values = blocks.reshape(rows, rows)
    low, high = np.percentile(values[~np.eye(rows, dtype=bool)], [1, 99.5])
    with matplotlib.rc_context(STYLE):
        figure = surface((8.6, 7.9), ax, layout=None)
        axes = figure.add_axes((0.06, 0.01, 0.82, 0.9))
        mesh = axes.imshow(values, cmap="magma", vmin=low, vmax=high, interpolation="nearest", rasterized=True)
        for edge in range(count, rows, count):
            axes.axhline(edge - 0.5, color="white", lw=0.5, alpha=0.7)
            axes.axvline(edge - 0.5, color="white", lw=0.5, alpha=0.7)
        centres = np.arange(len(languages)) * count + (count - 1) / 2
        axes.set_xticks(centres, languages)
        axes.set_yticks(centres, languages)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_title(title, pad=22)
        bar = figure.add_axes((0.9, 0.02, 0.02, 0.88))
        figure.colorbar(
            mesh, cax=bar, label="cosine similarity" + (", centred in each block" if centred else ""), extend="both"
        )
    return whole(figure)


def score_figure(table: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """LRDS and SADS by layer, each with its interval; `table` is that of `alignment.by_layer`."""
    with matplotlib.rc_context(STYLE):
        figure = surface((9, 3.4), ax)
        for axes, name, colour, label in zip(
            figure.subplots(1, 2),
            ("lrds", "sads"),
            (RED, BLUE),
            ("LRDS: language makes alike", "SADS: meaning makes alike"),
            strict=True,
        ):
            _line(axes, table, name, colour, label)
            axes.axhline(0, color=GREY, lw=0.6)
            layer_axis(axes)
            axes.set_title(label, loc="left", fontsize=9)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def ses_figure(
    table: pd.DataFrame, neurons: NeuronSet, what: str, title: str = "", *, ax: Axes | None = None
) -> Figure:
    """Sentence-embedding similarity by layer, laid over the number of neurons of any language (LAPE, Figure 6)."""
    with matplotlib.rc_context(STYLE):
        figure = surface((7, 3.4), ax)
        bars = figure.subplots()
        bars.bar(table.index, neurons.counts().sum(axis=1), color="#c9d3e3", label=f"{what} neurons, all languages")
        bars.set_ylabel("neurons")
        layer_axis(bars)
        bars.spines["right"].set_visible(True)
        lines = bars.twinx()
        _line(lines, table, "ses", RED, "SES, same meaning")
        lines.plot(
            table.index, table["ses"] - table["ses_margin"], color=RED, lw=1, ls=":", label="SES, different meanings"
        )
        lines.set_ylabel("mean cosine of states")
        lines.set_zorder(bars.get_zorder() + 1)
        handles = [*bars.get_legend_handles_labels()[0], *lines.get_legend_handles_labels()[0]]
        labels = [*bars.get_legend_handles_labels()[1], *lines.get_legend_handles_labels()[1]]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def dominance_figure(table: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Dominance by layer, a line a target language (LAPE, Figure 7); `table` is that of `alignment.dominance`."""
    with matplotlib.rc_context(STYLE):
        figure = surface((7, 3.6), ax)
        axes = figure.subplots()
        colours = matplotlib.colormaps["tab20"]
        for i, tag in enumerate(table.columns):
            axes.plot(table.index, table[tag], lw=1.3, color=colours(i % 20), label=language_name(str(tag)))
        layer_axis(axes)
        axes.set_ylabel("mean cosine to the target")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="target language")
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def agreement_figure(
    table: pd.DataFrame, first: str, second: str, title: str = "", *, ax: Axes | None = None
) -> Figure:
    """What two methods share by language, beside what chance would; `table` is that of `alignment.compare`."""
    with matplotlib.rc_context(STYLE):
        figure = surface((6.4, 0.9 + 0.28 * len(table)), ax)
        axes = figure.subplots()
        places = np.arange(len(table))
        axes.barh(places, table["shared"], color=BLUE, height=0.6, label=f"in both {first} and {second}")
        axes.plot(table["by_chance"], places, "|", color=RED, ms=11, mew=2, label="expected by chance")
        for y, (_, row) in zip(places, table.iterrows(), strict=True):
            share = row["shared"] / row["second"] if row["second"] else float("nan")
            if np.isfinite(share):
                axes.annotate(
                    f"{share:.0%} of {second}",
                    (max(row["shared"], row["by_chance"]), y),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                )
        axes.set_yticks(places, [f"{language_name(str(tag))} ({tag})" for tag in table.index])
        axes.invert_yaxis()
        axes.margins(x=0.2)
        axes.set_xlabel("neurons")
        axes.legend(frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def evolution_figure(
    table: pd.DataFrame, x: str, tasks: Sequence[str], title: str = "", *, ax: Axes | None = None
) -> Figure:
    """Zeng et al. 2025, Figure 4: linguistic regions (left) and semantic alignment (right) over training.

    `table` is that of `evolve`; failed checkpoints leave a gap. Perplexity is the geometric mean over languages.
    """
    table = table[table["error"].isna()]
    with matplotlib.rc_context(STYLE):
        figure = surface((10, 3.6), ax)
        left, right = figure.subplots(1, 2)
        for axes, name, other in ((left, "lrds", ["sklr_share"]), (right, "sads", tasks or ["perplexity"])):
            colour = RED if name == "lrds" else BLUE
            _line(axes, table.set_index(x), name, colour, name.upper())
            axes.set_ylabel(name.upper(), color=colour)
            axes.set_xlabel(x)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if table[other].isna().to_numpy().all():  # too few languages for regions: an empty axis would say nothing
                continue
            axes.spines["right"].set_visible(True)
            second = axes.twinx()
            for task, style in zip(other, ("--", ":", "-.", (0, (1, 3))), strict=False):
                label = {"sklr_share": "SKLR"}.get(task, task.removeprefix("task_"))
                second.plot(table[x], table[task], ls=style, marker="s", ms=3, color=GREEN, label=label)
            second.set_ylabel(
                ", ".join({"sklr_share": "SKLR, share of all neurons"}.get(t, t.removeprefix("task_")) for t in other)
            )
            second.yaxis.label.set_color(GREEN)
            if other == ["perplexity"]:
                second.set_yscale("log")
        left.set_title("linguistic regions", loc="left", fontsize=9)
        right.set_title("semantic alignment", loc="left", fontsize=9)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def region_layers_figure(counts: dict[str, pd.DataFrame], title: str = "", *, ax: Axes | None = None) -> Figure:
    """Zeng et al. 2025, Figure 5: how each checkpoint's regions are distributed over its depth.

    Args:
        counts: checkpoint → its `NeuronSet.counts()`. A line a checkpoint, light to dark; each sums to 100 %.
        title: above the figure.
    """
    with matplotlib.rc_context(STYLE):
        figure = surface((7, 3.6), ax)
        axes = figure.subplots()
        colours = matplotlib.colormaps["viridis_r"](np.linspace(0.1, 1, max(2, len(counts))))
        same = len({len(table) for table in counts.values()}) == 1
        for colour, (name, table) in zip(colours, counts.items(), strict=False):
            share = table.sum(axis=1) / max(1, int(table.to_numpy().sum()))
            depth = table.index if same else (table.index - 0.5) / len(table)
            axes.plot(depth, 100 * share, color=colour, marker="o", ms=3, lw=1.3, label=name)
        if same:
            layer_axis(axes)
        else:
            axes.set_xlabel("depth (0 input, 1 output)")
        axes.set_ylabel("% of the key neurons")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def sizes_figure(table: pd.DataFrame, tasks: Sequence[str], title: str = "", *, ax: Axes | None = None) -> Figure:
    """Zeng et al. 2025, Figure 7: LRDS, SADS and a score of models of several sizes, smallest first."""
    table = table[table["error"].isna()].sort_values("parameters")
    with matplotlib.rc_context(STYLE):
        names = ["lrds", "sads", *(list(tasks) or ["perplexity"])]
        figure = surface((2.9 * len(names), 3.2), ax)
        for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            places = np.arange(len(table))
            errors: Any = None
            if f"{name}_low" in table and table[f"{name}_low"].notna().all():
                errors = np.abs(table[[f"{name}_low", f"{name}_high"]].to_numpy().T - table[name].to_numpy())
            colour = {"lrds": RED, "sads": BLUE}.get(name, GREEN)
            axes.bar(places, table[name], yerr=errors, color=colour, width=0.6, capsize=3)
            axes.set_xticks(places, table["checkpoint"], rotation=30, ha="right")
            shown = name.upper() if name in ("lrds", "sads") else name.removeprefix("task_")
            axes.set_title(shown, loc="left", fontsize=9)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _line(axes: Axes, table: pd.DataFrame, name: str, colour: str, label: str) -> None:
    axes.plot(table.index, table[name], color=colour, marker="o", ms=3, lw=1.4, label=label)
    if f"{name}_low" in table:
        axes.fill_between(table.index, table[f"{name}_low"], table[f"{name}_high"], color=colour, alpha=0.2, lw=0)
