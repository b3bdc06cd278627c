"""The figure of two runs of one shape: what of a base model's languages stays in its chat model."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuroglot.figures.style import STYLE, layer_axis, surface, whole
from neuroglot.languages.tags import language_name

__all__ = ["pair_figure", "pair_findings"]

RED, BLUE, GREY = "#d1495b", "#2f5d8a", "#8a94a6"


def pair_figure(table: pd.DataFrame, layers: pd.DataFrame, title: str = "", *, ax: Axes | None = None) -> Figure:
    """What the second model's own sets, the first's, and random ones do to each language; and where they agree.

    Args:
        table: the first of what `run.pair.pair_runs` gives, a row a language.
        layers: the second, a row a layer.
        title: above the figure.
        ax: a place in a figure of one's own.
    """
    places = np.arange(len(table))
    steered = "steer_own" in table
    with matplotlib.rc_context(STYLE):
        figure = surface((4.6 + 3.4 * steered + 3.6, 3.4), ax)
        panels = figure.subplots(1, 2 + steered)
        for shift, (name, colour) in enumerate({"own": RED, "base": BLUE, "random": GREY}.items()):
            label = {"own": "the tuned model's neurons", "base": "the base's", "random": "random"}[name]
            at = places + 0.26 * (shift - 1)
            panels[0].bar(at, table[name], 0.24, color=colour, label=label)
            if steered:
                mean = table[f"steer_{name}"]
                ends = [mean - table[f"steer_{name}_low"], table[f"steer_{name}_high"] - mean]
                panels[1].bar(at, mean, 0.24, color=colour, yerr=np.clip(ends, 0, None), error_kw={"lw": 0.8})
        panels[0].set_title("neurons ablated: nats lost on target", loc="left", fontsize=9)
        if steered:
            for place, value in zip(places, table["steer_intact"], strict=True):
                panels[1].plot([place - 0.4, place + 0.4], [value, value], color="black", lw=1)
            said = "raised on other texts: probability\nof the language's tokens (line: intact)"
            panels[1].set_title(said, loc="left", fontsize=9)
        for panel in panels[:-1]:
            panel.set_xticks(places, table.index)
            panel.axhline(0, color=GREY, lw=0.6)
        below = np.zeros(len(layers))
        for name, colour in {"both": "#7a5195", "base": BLUE, "tuned": RED}.items():
            label = {"both": "both", "base": "base only", "tuned": "tuned only"}[name]
            panels[-1].bar(layers.index, layers[name], bottom=below, color=colour, label=label)
            below += layers[name].to_numpy()
        panels[-1].set_title("language neurons by layer", loc="left", fontsize=9)
        layer_axis(panels[-1])
        panels[-1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=7)
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def pair_findings(table: pd.DataFrame) -> list[str]:
    """What stays, in sentences that hold whatever it is."""
    found = table["second"].sum()
    if not found:
        return ["The method finds no language's neurons in the second model, so there is nothing to compare."]
    share, chance = table["shared"].sum() / found, table["by_chance"].sum() / found
    said = [
        f"{share:.0%} of the second model's neurons of a language are the first's too; by chance {chance:.1%} would be."
    ]
    apart = table[table.p < 0.05]
    names = ", ".join(language_name(str(tag)) for tag in apart.index)
    said.append(
        f"Ablated in the second model, its own sets cost {table.own.mean():.3f} nats on target and the first's "
        f"{table.base.mean():.3f} (random {table.random.mean():.3f}); they differ with p < 0.05 in {len(apart)} of "
        f"{len(table)} languages{f' ({names})' if len(apart) else ''}, each by itself."
    )
    if "steer_own" in table:
        means = {name: table[f"steer_{name}"].mean() for name in ("intact", "own", "base", "random")}
        said.append(
            f"Raised on other languages' text, its own sets bring the language's tokens from {means['intact']:.1%} to "
            f"{means['own']:.1%} of the probability, the first's to {means['base']:.1%}, random ones to "
            f"{means['random']:.1%}."
        )
    return said
