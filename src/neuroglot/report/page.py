"""The report of a run: tables, figures, and one page that holds them all."""

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.figures.neuron_map import atlas_plots, bin_edges
from neuroglot.figures.neurons import layer_figure, overlap_figure, perturbation_figure
from neuroglot.figures.plotly import embedded, plotly_script
from neuroglot.figures.screen import FONTS, layer_plot, overlap_plot, perturbation_plot
from neuroglot.figures.style import save_figure
from neuroglot.figures.words import findings, on_target_texts
from neuroglot.identify.registry import title as method_title
from neuroglot.identify.units import units_of
from neuroglot.languages.tags import language_name
from neuroglot.report.alignment import alignment_section
from neuroglot.report.comparison import compare_part
from neuroglot.report.experts import expert_part
from neuroglot.report.lens import lens_part
from neuroglot.report.pair import pair_part
from neuroglot.report.steering import steering_part
from neuroglot.report.tasks import task_part
from neuroglot.run.directory import Run
from neuroglot.storage.atomic import save_text
from neuroglot.storage.tables import save_table

__all__ = ["report", "report_experts"]


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
            "active_share": recording.probabilities[recording.exists].mean(0).tolist(),
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
        lens=lens_part(run),
        pair=pair_part(run, _figure),
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


def report_experts(run: Run) -> None:
    """Write the tables and figures of the run's experts alone."""
    expert_part(run, _figure, _save_table)


def _method(run: Run, method: str) -> dict[str, Any]:
    """Write the tables and figures of one method, and gather what the page shows of it."""
    units = units_of(method)
    neurons = run.neurons(method, units)
    _save_table(run, f"neurons-{method}", neurons.counts().reset_index())
    _save_table(run, f"overlap-{method}", neurons.overlap().rename_axis("language").reset_index())
    of_units = run.recording.of(units) if units == "heads" else run.recording
    recorded = of_units if set(neurons.languages) <= set(of_units.languages) else None
    _save_table(run, f"index-{method}", neurons.frame(recorded))
    named = method_title(method) if units == "heads" else f"{method_title(method)} neurons"
    title = f"{named} of {run.manifest.model.source}"
    shown: dict[str, Any] = {
        "name": method,
        "title": method_title(method),
        "units": units,
        "all": neurons.total,
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
        _save_table(run, f"perturbation-{method}", result.frame())
        _save_table(run, f"on-target-{method}", result.on_target.reset_index())
        _save_table(run, f"change-{method}", result.change.rename_axis("off").reset_index())
        figure = perturbation_figure(result, f"Change of perplexity when {title} are off")
        shown["perturbation"] = _figure(run, figure, f"perturbation-{method}")
        shown["plots"]["perturbation"] = embedded({"": perturbation_plot(result)})
        shown["result"] = result
        shown["findings"] = findings(result)
        shown["on_target"] = on_target_texts(result)
    return shown


def _bin(neurons: int) -> str:
    sizes = sorted({b - a for a, b in pairwise(bin_edges(neurons).tolist())})
    return " or ".join(map(str, sizes))


def _figure(run: Run, figure: Any, name: str) -> str:
    """Save a figure, and give it as text for the page."""
    png, _ = save_figure(figure, run.path / "figures", name)
    return base64.b64encode(png.read_bytes()).decode("ascii")


def _save_table(run: Run, name: str, table: pd.DataFrame) -> None:
    save_table(run.path / "tables" / f"{name}.csv", table)


_TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.report"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
)
