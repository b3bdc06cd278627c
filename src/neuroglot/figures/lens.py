"""Figures and sentences of the lens: which language a model's layers speak."""

from typing import Literal

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.figures.style import STYLE, surface, whole
from neuroglot.languages.tags import language_name
from neuroglot.tokens.counts import SHARED, UNSEEN

__all__ = ["lens_curve_figure", "lens_figure", "lens_findings"]

GREYS = {SHARED: "#8a94a6", UNSEEN: "#c4c9d4"}


def lens_figure(
    lens: Lens, title: str = "", *, measure: Literal["mass", "likeliest"] = "mass", ax: Axes | None = None
) -> Figure:
    """Whose tokens are likely after each layer: a panel for each language of the text, a line for each language's own.

    Bands are 95 % intervals over blocks. The text's own language is drawn thick; the dotted line is how many of the
    text's own tokens are its own, which is where the last layer of a perfect model would end.

    Args:
        lens: as `evaluate.lens` gives it.
        title: above the figure.
        measure: the probability of the tokens together, or the share of the likeliest ones.
        ax: a place in a figure of one's own.
    """
    table = lens.frame()
    colours = dict(zip(lens.owners, matplotlib.colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    columns = min(4, len(lens.languages))
    rows = -(-len(lens.languages) // columns)
    with matplotlib.rc_context(STYLE):
        figure = surface((2.5 * columns + 1.4, 2.1 * rows + 0.6), ax)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for panel in panels.flat[len(lens.languages) :]:
            panel.set_visible(False)
        for panel, tag in zip(panels.flat, lens.languages, strict=False):
            of_text = table[table.language == tag]
            for owner in lens.owners:
                rows_of = of_text[of_text.tokens_of == owner]
                colour = GREYS.get(owner) or colours.get(owner, "black")
                panel.plot(
                    rows_of.layer, rows_of[measure], color=colour, lw=2.4 if owner == tag else 1.1,
                    ls="--" if owner in GREYS else "-", label=owner if owner in GREYS else language_name(owner),
                )  # fmt: skip
                panel.fill_between(
                    rows_of.layer, rows_of[f"{measure}_low"], rows_of[f"{measure}_high"], color=colour, alpha=0.2, lw=0
                )
                if owner == tag:
                    panel.axhline(float(rows_of.text.iloc[0]), color=colour, lw=0.8, ls=":")
            panel.set_title(f"text in {language_name(tag)}", fontsize=9)
            panel.set_ylim(0, 1)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        for panel in panels[:, 0]:
            panel.set_ylabel("probability" if measure == "mass" else "share of the likeliest")
        for panel in panels[-1]:
            panel.set_xlabel("layer")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8, title="tokens of")
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def lens_curve_figure(lens: Lens, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Entropy, own tokens' probability, and the loss of the next token by layer, a line for each language of text."""
    table = lens.curve()
    colours = matplotlib.colormaps["tab10"]
    names = {"entropy": "entropy (nats)", "own": "probability of own tokens", "nats": "loss of the next token (nats)"}
    with matplotlib.rc_context(STYLE):
        figure = surface((9.4, 3.0), ax)
        panels = figure.subplots(1, len(names))
        for panel, (name, label) in zip(panels, names.items(), strict=True):
            for number, tag in enumerate(lens.languages):
                rows = table[table.language == tag]
                panel.plot(rows.layer, rows[name], color=colours(number % 10), lw=1.3, label=language_name(tag))
                panel.fill_between(
                    rows.layer, rows[f"{name}_low"], rows[f"{name}_high"], color=colours(number % 10), alpha=0.2, lw=0
                )
            panel.set_title(label, loc="left", fontsize=9)
            panel.set_xlabel("layer")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8, title="text in")
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def lens_findings(lens: Lens) -> list[str]:
    """What the curves show, in sentences that hold whatever they show."""
    table = lens.frame()
    table = table[~table.tokens_of.isin([SHARED, UNSEEN])]
    middle = _middle(table, lens.layers)
    said = []
    for tag in lens.languages:
        of_text = middle[middle.language == tag].groupby("tokens_of", sort=False)["mass"].mean()
        if tag not in of_text or len(of_text) < 2:
            continue
        own, other = float(of_text[tag]), str(of_text.drop(tag).idxmax())
        curves = table[table.language == tag].pivot(index="layer", columns="tokens_of", values="mass")
        lowest = table[table.language == tag].pivot(index="layer", columns="tokens_of", values="mass_low")
        highest = table[table.language == tag].pivot(index="layer", columns="tokens_of", values="mass_high")
        ahead = curves.index[lowest[other] > highest[tag]]
        where = f" (more, beyond both intervals, in {_ranges(list(ahead))})" if len(ahead) else ""
        said.append(
            f"Text in {language_name(tag)}: in the middle third of the layers tokens of its own have "
            f"{own:.1%} of the probability and those of {language_name(other)}, the next, {of_text[other]:.1%}{where}; "
            f"after the last layer {curves[tag].iloc[-1]:.1%} and {curves[other].iloc[-1]:.1%}."
        )
    return said


def _middle(table: pd.DataFrame, layers: int) -> pd.DataFrame:
    third = max(1, layers // 3)
    inside = table[(table.layer > third) & (table.layer <= layers - third)]
    return inside if len(inside) else table


def _ranges(layers: list[int]) -> str:
    """`layers 3 to 5 and 8` of [3, 4, 5, 8]."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    return ("layer " if len(layers) == 1 else "layers ") + (
        words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
    )
