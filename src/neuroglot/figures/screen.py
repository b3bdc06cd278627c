"""Figures for screens: heatmaps and curves that answer to a pointer, as the plain values that plotly.js draws.

A figure is `{"data": …, "layout": …}`. Nothing here needs a browser; of the `plotly` package only the script is used.
Scales run evenly in lightness, from pale to dark or through white from blue to orange, so that they can be read in grey
print and without telling red from green.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Real

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.figures.words import between_text, change_text, ratio_ticks
from neuroglot.languages.tags import named

__all__ = [
    "DASHES",
    "FONTS",
    "LINES",
    "curves",
    "heatmap",
    "layer_plot",
    "overlap_plot",
    "pair_plot",
    "perturbation_plot",
    "plain",
]

Plot = dict[str, Any]
PALE = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"]
APART = ["#2166ac", "#67a9cf", "#d1e5f0", "#f7f7f7", "#fddbc7", "#ef8a62", "#b35806"]
LINES = ["#2f5d8a", "#d17a22", "#3a7d44", "#8a94a6", "#7a5195", "#000000"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]
FONTS = (
    'system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", '
    '"Microsoft YaHei", "Noto Naskh Arabic", "Geeza Pro", "Noto Sans Devanagari", "Noto Sans Bengali", sans-serif'
)
"""Fonts that have every script of the starter corpus, on the usual systems; none is fetched."""
LETTER = 9
"""Pixels of a letter of an axis title, with room for what is around: a long one stands beside few rows."""


def plain(text: object) -> str:
    """Text that plotly.js shows as it is, though it reads some mark-up."""
    return html.escape(str(text), quote=False)


def _scale(colours: Sequence[str]) -> list[list[Any]]:
    return [[place / (len(colours) - 1), colour] for place, colour in enumerate(colours)]


def _packed(values: Float[np.ndarray, "rows columns"]) -> dict[str, str]:
    """A matrix as plotly.js reads it from few bytes."""
    data = np.ascontiguousarray(values, dtype="<f4")
    return {
        "dtype": "f4",
        "bdata": base64.b64encode(data.tobytes()).decode(),
        "shape": ", ".join(map(str, data.shape)),
    }


def heatmap(
    values: Real[np.ndarray, "rows columns"],
    *,
    x: Sequence[Any],
    y: Sequence[Any],
    hover: str,
    x_title: str = "",
    y_title: str = "",
    label: str = "",
    low: float | None = None,
    high: float | None = None,
    apart: bool = False,
    text: Sequence[Sequence[str]] | None = None,
    custom: Sequence[Sequence[Any]] | None = None,
    written: bool = False,
    height: int | None = None,
    down: bool = True,
) -> Plot:
    """One heatmap.

    Args:
        values: what the colours show; NaN leaves a gap.
        x: names of the columns.
        y: names of the rows.
        hover: what a cell says: plotly's template with %{x}, %{y}, %{z}, %{text}, %{customdata}.
        x_title: of the columns.
        y_title: of the rows.
        label: of the colours.
        low: where the scale begins; by default at the lowest value.
        high: where it ends; by default at the highest.
        apart: the scale runs through white at 0, with ends as far from it on both sides.
        text: what the cells say.
        custom: what the template may name beside.
        written: write the text into the cells.
        height: in pixels.
        down: the first row is at the top.
    """
    values = np.asarray(values, dtype=np.float32)
    finite = values[np.isfinite(values)]
    if apart:
        end = high if high is not None else float(np.abs(finite).max()) if finite.size else 1.0
        low, high = -(end or 1.0), end or 1.0
    if low is not None and high is not None and high <= low:
        high = low + 1.0
    trace: Plot = {
        "type": "heatmap",
        "z": _packed(values),
        "x": list(x),
        "y": list(y),
        "colorscale": _scale(APART if apart else PALE),
        "hovertemplate": hover + "<extra></extra>",
        "hoverongaps": False,
        "colorbar": {"title": {"text": label, "side": "right"}, "thickness": 12, "ticksuffix": " "},
    }
    if low is not None and high is not None:
        trace |= {"zmin": low, "zmax": high}
    if text is not None:
        trace["text"] = [list(row) for row in text]
    if custom is not None:
        trace["customdata"] = [list(row) for row in custom]
    if written:
        trace["texttemplate"] = "%{text}"
        trace["xgap"] = trace["ygap"] = 1
    layout = _layout(x_title, y_title, height or max(130 + 26 * max(4, len(y)), LETTER * len(y_title)))
    if down:
        layout["yaxis"]["autorange"] = "reversed"
    if all(isinstance(name, str) for name in y):
        layout["yaxis"]["type"] = "category"
    if all(isinstance(name, str) for name in x):
        layout["xaxis"] |= {"type": "category", "side": "top"}
    return {"data": [trace], "layout": layout}


def _layout(x_title: str, y_title: str, height: int) -> Plot:
    axis = {"automargin": True, "zeroline": False, "showgrid": False, "ticks": ""}
    return {
        "font": {"family": FONTS, "size": 12, "color": "#1c2430"},
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "#f4f4f4",
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
        "hoverlabel": {"font": {"family": FONTS}},
        "dragmode": "zoom",
    }


def curves(table: pd.DataFrame, *, x_title: str, y_title: str, bands: Mapping[str, tuple[str, str]] = {}) -> Plot:
    """Lines, one a column, over the table's index; told apart by dashes as well as colours.

    Args:
        table: a column a line.
        x_title: of the index.
        y_title: of the values.
        bands: line → the columns of its interval, which are drawn as a band and not as lines.
    """
    traces: list[Plot] = []
    x = table.index.tolist()
    hidden = {column for ends in bands.values() for column in ends}
    for place, name in enumerate(str(column) for column in table if column not in hidden):
        colour = LINES[place % len(LINES)]
        if name in bands:
            low, high = (table[column].tolist() for column in bands[name])
            traces.append(
                {
                    "type": "scatter", "x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself",
                    "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}, "hoverinfo": "skip",
                    "showlegend": False, "mode": "lines",
                }
            )  # fmt: skip
        line = {"color": colour, "dash": DASHES[place % len(DASHES)], "width": 2}
        traces.append(
            {
                "type": "scatter", "mode": "lines+markers", "x": x, "y": table[name].tolist(), "name": plain(name),
                "line": line, "marker": {"size": 5},
                "hovertemplate": f"{x_title} %{{x}}<br>{plain(name)} %{{y:.4f}}<extra></extra>",
            }
        )  # fmt: skip
    layout = _layout(x_title, y_title, 340)
    layout |= {"legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02}, "plot_bgcolor": "white"}
    layout["yaxis"] |= {"showgrid": True, "gridcolor": "#e6e9ef"}
    return {"data": traces, "layout": layout}


def layer_plot(neurons: NeuronSet) -> Plot:
    """How many neurons, or heads, each language has in each layer."""
    counts, units = neurons.counts(), neurons.units
    return heatmap(
        counts.T.to_numpy(),
        x=list(counts.index),
        y=[named(tag) for tag in counts.columns],
        hover=f"layer %{{x}}<br>%{{y}}<br>%{{z}} {units}",
        x_title="layer",
        label=units,
        low=0,
        high=float(max(1, counts.to_numpy().max())),
    )


def overlap_plot(neurons: NeuronSet) -> Plot:
    """How much the languages' sets overlap: the Jaccard index of every pair, with how many are shared."""
    units = neurons.units
    flat = neurons.mask.flatten(1).float()
    shared = (flat @ flat.T).int().numpy()
    return pair_plot(
        neurons.overlap(), "Jaccard index", extra=[[f"{count:,} {units} shared" for count in row] for row in shared]
    )


def pair_plot(
    table: pd.DataFrame, label: str, *, extra: Sequence[Sequence[str]] | None = None, keep: bool = False
) -> Plot:
    """A measure of every pair of languages; a language with itself is left out unless `keep`."""
    values = table.to_numpy(dtype=float, copy=True)
    if not keep:
        np.fill_diagonal(values, np.nan)
    names = [named(str(tag)) for tag in table.index]
    return heatmap(
        values,
        x=[str(tag) for tag in table.columns],
        y=names,
        hover="%{y} and %{x}<br>" + label + " %{z:.3g}" + ("<br>%{customdata}" if extra else ""),
        label=label,
        custom=extra,
    )


def perturbation_plot(result: Perturbation, *, highest: float | None = None) -> Plot:
    """The perplexity-change matrix, random rows below; colours show how many times the intact perplexity it is.

    Args:
        result: what was measured.
        highest: the ratio at which the scale ends, so that several can be compared.
    """
    change = result.change
    tags = list(change.columns)
    rows = [change]
    names = [f"{named(str(tag))}, {result.sizes[str(tag)]:,}" for tag in change.index]
    random = result.random_change
    if "mean" in random.index and len(result.random):
        rows.append(random.loc[["mean"]])
        names.append(f"random, {result.sizes['random']:,}")
    if not result.matched_change.empty:
        rows.append(result.matched_change.loc[["mean"]].reindex(columns=tags))
        names.append("random, matched to the column’s size")
    ratios = pd.concat([row[tags] for row in rows]).to_numpy(dtype=float) + 1
    finite = ratios[np.isfinite(ratios)]
    top = highest or max(2.0, float(finite.max()) if finite.size else 2.0)
    logs = np.log10(np.clip(np.nan_to_num(ratios, nan=np.nan, posinf=top), 1e-9, None))
    text = [["" if np.isnan(ratio) else change_text(ratio - 1) for ratio in row] for row in ratios]
    before = [result.intact[tag] for tag in tags]
    custom = [[f"perplexity {ratio * was if np.isfinite(was) else was:.4g}, intact {was:.4g}"
               for was, ratio in zip(before, row, strict=True)] for row in ratios]  # fmt: skip
    ends = result.intervals()
    for off, row in zip(change.index, custom, strict=False):
        for x, tag in enumerate(tags):
            low, high = ends.get(("off", str(off), tag), (np.nan, np.nan))
            row[x] += "" if np.isnan(low) else f"<br>95 % over blocks {between_text(low, high)}"
    plot = heatmap(
        logs,
        x=tags,
        y=names,
        hover="off: %{y}<br>measured: %{x}<br>change %{text}<br>%{customdata}",
        x_title="language measured",
        y_title=f"whose {result.units} are off, how many",
        label="perplexity, × intact",
        low=0,
        high=float(np.log10(top)),
        text=text,
        custom=custom,
        written=len(tags) <= 16,
    )
    ticks = ratio_ticks(top)
    bar = plot["data"][0]["colorbar"]
    bar |= {"tickvals": [float(np.log10(tick)) for tick in ticks], "ticktext": list(ticks.values())}
    plot["layout"]["shapes"] = [
        {
            "type": "rect", "x0": tags.index(tag) - 0.48, "x1": tags.index(tag) + 0.48, "y0": y - 0.48, "y1": y + 0.48,
            "line": {"color": "#d1495b", "width": 2},
        }
        for y, tag in enumerate(change.index)
        if tag in tags
    ]  # fmt: skip
    return plot
