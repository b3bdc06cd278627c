"""Figures of language forcing."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroglot.evaluate.steering.tables import matrix
from neuroglot.figures.style import CELL, COLOURS, STYLE, surface, whole

__all__ = ["forcing_figure", "score_figure"]

SCORES = (("lfs", "LFS"), ("relevance", "relevance"), ("steering_score", "steering score"))


def forcing_figure(
    answers: pd.DataFrame, title: str = "", rate: str = "on_target", *, ax: Axes | None = None
) -> Figure:
    """A matrix for each condition, source by target, on one scale."""
    conditions = list(answers["condition"].unique())
    tables = [matrix(answers, condition, rate) for condition in conditions]
    rows, columns = tables[0].shape
    wide = max(1, min(len(conditions), 3))
    high = -(-len(conditions) // wide)
    left, top, gap_x, gap_y = 0.75, 0.75, 0.35, 0.75
    width = left + wide * columns * CELL + (wide - 1) * gap_x + 1.1
    height = top + high * rows * CELL + (high - 1) * gap_y + 0.55
    lowest, highest = (0.0, 1.0) if rate == "on_target" else (1.0, 10.0)
    with matplotlib.rc_context(STYLE):
        figure = surface((max(width, 5.0), height), ax, layout=None)
        width = max(width, 5.0)
        for place, (condition, table) in enumerate(zip(conditions, tables, strict=True)):
            down, across = divmod(place, wide)
            x = left + across * (columns * CELL + gap_x)
            y = height - top - (down + 1) * rows * CELL - down * gap_y
            axes = figure.add_axes((x / width, y / height, columns * CELL / width, rows * CELL / height))
            values = table.to_numpy(dtype=float)
            mesh = axes.imshow(values, cmap=COLOURS, vmin=lowest, vmax=highest, aspect="auto")
            for i, j in np.argwhere(np.isfinite(values)):
                dark = (values[i, j] - lowest) / (highest - lowest) > 0.55
                text = f"{100 * values[i, j]:.0f}" if rate == "on_target" else f"{values[i, j]:.1f}"
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
            axes.set_xticks(range(columns), list(table.columns))
            axes.set_yticks(range(rows), list(table.index) if across == 0 else [""] * rows)
            axes.tick_params(length=0)
            axes.set_title(condition.replace(" + ", "\n+ "))
            if across == 0:
                axes.set_ylabel("asked in")
            for spine in axes.spines.values():
                spine.set_visible(False)
        middle = left + (wide * columns * CELL + (wide - 1) * gap_x) / 2
        figure.text(middle / width, 0.08 / height, "to be answered in", ha="center", va="bottom")
        bar = figure.add_axes((1 - 0.85 / width, 0.55 / height, 0.14 / width, (height - top - 0.55) / height))
        figure.colorbar(mesh, cax=bar, label="%" if rate == "on_target" else "score")
        if rate == "on_target":
            bar.set_yticks([0, 0.5, 1], ["0", "50", "100"])
        figure.suptitle(title, y=1 - 0.12 / height, va="top", fontsize=10)
    return whole(figure)


def score_figure(scores: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """LFS, relevance and steering score of each condition, with their 95 % intervals; see `steering_scores`."""
    names = [str(name) for name in scores.index]
    with matplotlib.rc_context(STYLE):
        figure = surface((6.0, 1.1 + 0.45 * len(names)), ax)
        axes = figure.subplots()
        for place, (column, label) in enumerate(SCORES):
            values = scores[column].to_numpy(dtype=float)
            ends = scores[[f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
            around = np.nan_to_num(np.abs(ends - values[:, None])).T
            down = np.arange(len(names)) + 0.27 * (place - 1)
            colour = matplotlib.colormaps["cividis"](0.15 + 0.35 * place)
            axes.barh(down, 100 * values, 0.25, label=label, color=colour)
            axes.errorbar(100 * values, down, xerr=100 * around, fmt="none", ecolor="black", elinewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("%, with 95 % intervals over prompts")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
        figure.suptitle(title, fontsize=10)
    return whole(figure)
