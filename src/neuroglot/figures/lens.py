"""Figures and sentences of the lens: which language a model's layers speak."""

from itertools import cycle
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.figures.style import STYLE, name_lowest, surface, whole
from neuroglot.languages.tags import language_name
from neuroglot.tokens.counts import SHARED, UNSEEN

__all__ = ["lens_curve_figure", "lens_figure", "lens_findings"]

GREYS = {SHARED: "#6b7280", UNSEEN: "#b4bac6"}
UNREAD = 0.75
"""Of the probability: with more of it on tokens of no counted text, a layer says little of languages."""
WORDS = {SHARED: "several languages", UNSEEN: "no text that was counted"}
TEN, TWENTY = (matplotlib.colormaps[name].colors for name in ("tab10", "tab20"))  # type: ignore[attr-defined]
GREY = 7  # of the ten, which would look like the greys of tokens of no language
PALETTE = [colour for at, colour in enumerate(TEN) if at != GREY]
PALETTE += [colour for at, colour in enumerate(TWENTY[1::2]) if at != GREY]  # the same hues, pale


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
    colours: dict[str, Any] = {**_colours(lens), **GREYS}
    columns = min(4, len(lens.languages))
    rows = -(-len(lens.languages) // columns)
    with matplotlib.rc_context(STYLE):
        figure = surface((2.5 * columns + 2.0, 2.1 * rows + 0.6), ax)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for panel, tag in zip(panels.flat, lens.languages, strict=False):
            of_text = table[table.language == tag]
            for owner in lens.owners:
                rows_of = of_text[of_text.tokens_of == owner]
                _line(panel, rows_of, measure, colours[owner], thick=owner == tag, dashed=owner in GREYS)
                if owner == tag:
                    panel.axhline(float(rows_of.text.iloc[0]), color=colours[owner], lw=0.8, ls=":")
            panel.set_title(f"text in {language_name(tag)}", fontsize=9)
            panel.set_ylim(0, 1)
            _count_layers(panel, lens)
        for panel in panels[:, 0]:
            panel.set_ylabel("probability" if measure == "mass" else "share of the likeliest")
        name_lowest(panels, len(lens.languages), "layer")
        handles = [
            Line2D([], [], color=colours[owner], lw=1.4, ls="--" if owner in GREYS else "-",
                   label=WORDS.get(owner) or language_name(owner))
            for owner in lens.owners
        ]  # fmt: skip
        handles += [
            Line2D([], [], color="black", lw=2.4, label="the text's language"),
            Line2D([], [], color="black", lw=0.8, ls=":", label="its share in the text"),
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, title="tokens of",
                      alignment="left")  # fmt: skip
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def lens_curve_figure(lens: Lens, title: str = "", *, ax: Axes | None = None) -> Figure:
    """Entropy, own tokens' probability, and the loss of the next token by layer, a line for each language of text.

    Bands are 95 % intervals over blocks. The loss has a log scale: the first layers are far from any prediction.
    """
    table = lens.curve()
    colours = _colours(lens)
    names = {
        "entropy": "entropy (nats)",
        "own": "probability of the text's language",
        "nats": "loss of the next token (nats, log scale)",
    }
    with matplotlib.rc_context(STYLE):
        figure = surface((9.8, 3.0), ax)
        panels = figure.subplots(1, len(names))
        for panel, (name, label) in zip(panels, names.items(), strict=True):
            for tag in lens.languages:
                _line(panel, table[table.language == tag], name, colours[tag])
            panel.set_title(label, loc="left", fontsize=9)
            panel.set_xlabel("layer")
            _count_layers(panel, lens)
        panels[-1].set_yscale("log")
        panels[-1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[-1].yaxis.set_major_formatter("{x:g}")
        panels[-1].yaxis.set_minor_locator(NullLocator())
        handles = [Line2D([], [], color=colours[tag], lw=1.4, label=language_name(tag)) for tag in lens.languages]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, title="text in",
                      alignment="left")  # fmt: skip
        figure.suptitle(title, fontsize=10)
    return whole(figure)


def _colours(lens: Lens) -> dict[str, tuple[float, float, float]]:
    """Of each language, the same in every figure of a lens."""
    tags = dict.fromkeys([*(owner for owner in lens.owners if owner not in GREYS), *lens.languages])
    return dict(zip(tags, cycle(PALETTE), strict=False))


def _line(
    panel: Axes, rows: pd.DataFrame, name: str, colour: Any, *, thick: bool = False, dashed: bool = False
) -> None:
    """A curve over the layers with its band."""
    panel.plot(rows.layer, rows[name], color=colour, lw=2.4 if thick else 1.2, ls="--" if dashed else "-")
    panel.fill_between(rows.layer, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, alpha=0.2, lw=0)


def _count_layers(panel: Axes, lens: Lens) -> None:
    """Ticks from layer 1 to the last."""
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    panel.set_xlim(0.5, lens.layers + 0.5)


def lens_findings(lens: Lens) -> list[str]:
    """What the curves show, in sentences that hold whatever they show.

    Layers whose probability is nearly all on tokens that no counted text has (`UNREAD`) are left out: what is left to
    the languages there is noise.
    """
    table = lens.frame()
    unseen = table[table.tokens_of == UNSEEN].set_index(["language", "layer"])["mass"]
    table = table[~table.tokens_of.isin([SHARED, UNSEEN])]
    if len(counted := [tag for tag in lens.owners if tag not in (SHARED, UNSEEN)]) < 2:
        name = language_name(counted[0])
        return [
            f"Only text in {name} was counted, so every token that it has counts as {name}'s own, punctuation and "
            "names too, and no language can be ahead of it; count the text of others as well."
        ]
    said, left_out, alone = [], set(), False
    for tag in lens.languages:
        read = unseen[tag].index[unseen[tag] <= UNREAD]
        of_text = table[table.language == tag]
        mass, low, high = (of_text.pivot(index="layer", columns="tokens_of", values=name)
                           for name in ("mass", "mass_low", "mass_high"))  # fmt: skip
        if tag not in mass:
            said.append(f"Text in {language_name(tag)}: none in that language was counted, so no token is its own.")
            continue
        left_out |= {*mass.index} - {*read}
        if read.empty:  # there is nothing to compare
            continue
        others = mass.columns.drop(tag)
        ahead = mass[others].sub(mass[tag], axis=0)
        unknown = bool(high[tag].isna().all())  # intervals, of one block of text
        alone = alone or unknown
        beyond = ahead.where(ahead.gt(0) if unknown else low[others].gt(high[tag], axis=0))  # of both intervals
        said.append(_finding(tag, mass, beyond.loc[read], "" if unknown else ", beyond both intervals"))
    if alone:
        said.append("No interval is known where a text has one block; give more --tokens.")
    if left_out:
        said.append(
            f"Left out, for some or all texts: {_ranges(sorted(left_out))}, where more than {UNREAD:.0%} of the "
            "probability is on tokens that no counted text has."
        )
    return said


def _finding(tag: str, mass: pd.DataFrame, beyond: pd.DataFrame, how: str) -> str:
    """Which other language is ahead of the text's own, and where.

    Args:
        tag: of the text.
        mass: layer × language of the tokens.
        beyond: of some layers, by how much another language is ahead; NaN where it is not beyond both intervals.
        how: far it would have to be ahead, in words.
    """
    name, last = language_name(tag), mass.index[-1]
    if beyond.isna().to_numpy().all():
        return (
            f"Text in {name}: no other language's tokens are likelier than its own{how} ({mass[tag][last]:.1%} at the "
            "end)."
        )
    other = str(beyond.max().idxmax())
    most: Any = beyond[other].idxmax()
    return (
        f"Text in {name}: tokens of {language_name(other)} are likelier than its own after "
        f"{_ranges([*beyond[other].dropna().index])}, most so after layer {most} ({mass[other][most]:.1%} against "
        f"{mass[tag][most]:.1%}); at the end they have {mass[other][last]:.1%} against {mass[tag][last]:.1%}."
    )


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
