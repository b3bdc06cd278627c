"""The report of a run: tables, figures, and one page that holds them all."""

import base64
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from neuroglot.evaluate import Perturbation
from neuroglot.files import save_text
from neuroglot.languages import language_name
from neuroglot.neurons import NeuronSet
from neuroglot.report.alignment import alignment_section
from neuroglot.report.atlas import atlas_plots, bin_edges
from neuroglot.report.compare import compare_part
from neuroglot.report.experts import expert_part
from neuroglot.report.figures import (
    change_text,
    layer_figure,
    method_name,
    overlap_figure,
    perturbation_figure,
    save_figure,
)
from neuroglot.report.screen import FONTS, embedded, layer_plot, overlap_plot, perturbation_plot, plotly_script
from neuroglot.report.steering import steering_part
from neuroglot.report.tasks import task_part
from neuroglot.run import Run

__all__ = ["findings", "report"]


def report(run: Run) -> Path:
    """Write the tables and figures of everything the run holds so far, and `report.html`, one self-contained page.

    Raises:
        NeuroglotError: the run has no finished recording, or cannot be written.
    """
    recording = run.recording
    tokens = pd.DataFrame(
        {
            "language": [language_name(tag) for tag in recording.languages],
            "tag": recording.languages,
            "tokens": recording.tokens.tolist(),
            "active_share": [float(recording.probabilities[..., k].mean()) for k in range(len(recording.languages))],
        }
    )
    _save_table(run, "recording", tokens)
    methods = [_method(run, name) for name in run.manifest.identify]
    page = _TEMPLATES.get_template("report.html").render(
        run=run.manifest,
        recording=recording,
        tokens=tokens,
        methods=methods,
        alignment=alignment_section(run) if run.manifest.align else None,
        compare=compare_part(run, _figure, _save_table),
        experts=expert_part(run, _figure, _save_table),
        tasks=task_part(run),
        steering=steering_part(run, _figure, _save_table),
        name=language_name,
        atlas=embedded(atlas_plots(recording)),
        bin=_bin(recording.neurons),
        plotly=plotly_script(),
        fonts=FONTS,
    )
    return save_text(run.path / "report.html", page)


def _method(run: Run, method: str) -> dict[str, Any]:
    """Write the tables and figures of one method, and gather what the page shows of it."""
    neurons = run.neurons(method)
    _save_table(run, f"neurons-{method}", neurons.counts().reset_index())
    _save_table(run, f"overlap-{method}", neurons.overlap().rename_axis("language").reset_index())
    _save_table(run, f"index-{method}", _index(neurons))
    title = f"{method_name(method)} neurons of {run.manifest.model.source}"
    shown: dict[str, Any] = {
        "name": method,
        "title": "Key regions" if method == "regions" else method_name(method),
        "settings": run.manifest.identify[method],
        "sizes": neurons.sizes(),
        "total": int(neurons.union().sum()),
        "threshold": neurons.about.get("threshold"),
        "layers": _figure(run, layer_figure(neurons, f"{title}, by layer"), f"layers-{method}"),
        "overlap": _figure(run, overlap_figure(neurons, f"Overlap of the {title}"), f"overlap-{method}"),
    }
    shown["plots"] = {"layers": embedded({"": layer_plot(neurons)}), "overlap": embedded({"": overlap_plot(neurons)})}
    path = run.perturbation_path(method)
    if path.is_file() and method not in run.manifest.perturb:
        shown["rows"] = len(Perturbation.load(path).off)  # it was stopped
    elif path.is_file():
        result = Perturbation.load(path)
        _save_table(run, f"perturbation-{method}", result.table())
        _save_table(run, f"change-{method}", result.change.rename_axis("off").reset_index())
        figure = perturbation_figure(result, f"Change of perplexity when {title} are off")
        shown["perturbation"] = _figure(run, figure, f"perturbation-{method}")
        shown["plots"]["perturbation"] = embedded({"": perturbation_plot(result)})
        shown["result"] = result
        shown["findings"] = findings(result)
    return shown


def findings(result: Perturbation) -> list[str]:
    """What a perplexity-change matrix shows, in sentences; exceptions are named."""
    change, random, leads = result.change, result.random_change, result.leads
    others = [tag for tag in leads.index if tag != "en"]
    leading = [tag for tag in others if leads[tag]]
    said = []
    if others:
        beside = " other than English" if "en" in leads.index else ""
        said.append(
            f"For {len(leading)} of {len(others)} languages{beside} the language's own perplexity rises most when its "
            "neurons are off."
        )
    for tag in leads.index:
        cells: dict[str, float] = change.loc[tag].to_dict()
        if not leads[tag]:
            most = max(cells, key=lambda measured: cells[measured])
            if result.sizes[tag] == 0:
                said.append(f"{language_name(tag)} is an exception: no neuron is its own, so nothing was switched off.")
            else:
                said.append(
                    f"{language_name(tag)} is an exception: {language_name(most)} rises more "
                    f"({change_text(cells[most])}) than {language_name(tag)} itself ({change_text(cells[tag])})."
                )
    below = []
    matched = result.matched_change
    for tag in leads.index:
        rival = matched if tag in matched else random
        mean, std = rival.loc["mean", tag], rival.loc["std", tag]
        if not change.loc[tag, tag] > mean + 3 * (std if std == std else 0):
            below.append(language_name(tag))
    means: list[float] = random.T["mean"].tolist()
    said.append(
        f"Random neurons, {result.sizes['random']} of them, change perplexity by "
        f"{change_text(statistics.median(means))} in the median language (largest "
        f"{change_text(max(means))})."
    )
    what = "random neurons of the same number" if len(matched) and not matched.empty else "random"
    seeds = f"3 standard deviations over {len(result.random)} seeds"
    if below:
        said.append(f"Not above {what} by {seeds}: {', '.join(below)}.")
    else:
        said.append(f"Every language's own cell is above {what} by {seeds}.")
    return said


def _index(neurons: NeuronSet) -> pd.DataFrame:
    """Every chosen neuron: language, layer from 1, neuron from 0 (as in the tensors)."""
    language, layer, neuron = neurons.mask.nonzero(as_tuple=True)
    return pd.DataFrame(
        {
            "language": [neurons.languages[k] for k in language.tolist()],
            "layer": (layer + 1).tolist(),
            "neuron": neuron.tolist(),
        }
    )


def _bin(neurons: int) -> str:
    sizes = sorted({b - a for a, b in pairwise(bin_edges(neurons).tolist())})
    return " or ".join(map(str, sizes))


def _figure(run: Run, figure: Any, name: str) -> str:
    """Save a figure, and give it as text for the page."""
    png, _ = save_figure(figure, run.path / "figures", name)
    return base64.b64encode(png.read_bytes()).decode("ascii")


def _save_table(run: Run, name: str, table: pd.DataFrame) -> None:
    save_text(run.path / "tables" / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))


_TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.report"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
)
