"""The report of a run: tables, figures, and one page that holds them all."""

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
from neuroglot.figures.words import findings, on_target_texts
from neuroglot.identify.registry import title as method_title
from neuroglot.identify.units import units_of
from neuroglot.languages.tags import language_name
from neuroglot.report.alignment import alignment_section
from neuroglot.report.comparison import compare_part
from neuroglot.report.experts import expert_part
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.report.lens import lens_part
from neuroglot.report.pair import pair_part
from neuroglot.report.steering import steering_part
from neuroglot.report.tasks import task_part
from neuroglot.run.directory import Run
from neuroglot.storage.atomic import save_text

__all__ = ["report"]


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
    keep_table(run.path, "recording", tokens)
    methods = [_method(run, name) for name in run.manifest.identify]
    page = _TEMPLATES.get_template("report.html").render(
        run=run.manifest,
        recording=recording,
        tokens=tokens,
        methods=methods,
        alignment=alignment_section(run) if run.manifest.align else None,
        compare=compare_part(run),
        lens=lens_part(run),
        pair=pair_part(run),
        experts=expert_part(run),
        tasks=task_part(run),
        steering=steering_part(run),
        name=language_name,
        atlas=embedded(atlas_plots(recording)),
        bin=_bin(recording.neurons),
        plotly=plotly_script(),
        fonts=FONTS,
    )
    return save_text(run.path / "report.html", page)


def _method(run: Run, method: str) -> dict[str, Any]:
    """Write the tables and figures of one method, and gather what the page shows of it."""
    units = units_of(method)
    neurons = run.neurons(method, units)
    keep_table(run.path, f"neurons-{method}", neurons.counts().reset_index())
    keep_table(run.path, f"overlap-{method}", neurons.overlap().rename_axis("language").reset_index())
    of_units = run.recording.of(units) if units == "heads" else run.recording
    recorded = of_units if set(neurons.languages) <= set(of_units.languages) else None
    keep_table(run.path, f"index-{method}", neurons.frame(recorded))
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
        "several": sum(neurons.sizes().values()) > int(neurons.union().sum()),
        "threshold": neurons.about.get("threshold"),
        "layers": keep_figure(run.path, layer_figure(neurons, f"{title}, by layer"), f"layers-{method}"),
        "overlap": keep_figure(run.path, overlap_figure(neurons, f"Overlap of the {title}"), f"overlap-{method}"),
    }
    shown["plots"] = {"layers": embedded({"": layer_plot(neurons)}), "overlap": embedded({"": overlap_plot(neurons)})}
    path = run.perturbation_path(method)
    if path.is_file() and method not in run.manifest.perturb:
        shown["rows"] = len(Perturbation.load(path).off)  # it was stopped
    elif path.is_file():
        result = Perturbation.load(path)
        keep_table(run.path, f"perturbation-{method}", result.frame())
        keep_table(run.path, f"on-target-{method}", result.on_target.reset_index())
        keep_table(run.path, f"change-{method}", result.change.rename_axis("off").reset_index())
        figure = perturbation_figure(result, f"Change of perplexity when {title} are off")
        shown["perturbation"] = keep_figure(run.path, figure, f"perturbation-{method}")
        shown["plots"]["perturbation"] = embedded({"": perturbation_plot(result)})
        shown["result"] = result
        shown["findings"] = findings(result)
        shown["on_target"] = on_target_texts(result)
    return shown


def _bin(neurons: int) -> str:
    sizes = sorted({b - a for a, b in pairwise(bin_edges(neurons).tolist())})
    return " or ".join(map(str, sizes))


_TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.report"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
)
