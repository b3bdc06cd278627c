"""The part of a report about a run beside another of the same shape."""

from pathlib import Path
from typing import Any

from neuroglot.figures.pair import pair_figure, pair_findings
from neuroglot.report.files import keep_figure
from neuroglot.run.directory import Run
from neuroglot.storage.tables import load_table

__all__ = ["pair_part"]


def pair_part(run: Run) -> dict[str, Any] | None:
    """Gather what the page shows of the tables that `neuroglot compare RUN OTHER` wrote; None if it wrote none."""
    file = run.path / "tables" / "pair.csv"
    if not run.manifest.pair or not file.is_file():
        return None
    table = load_table(file).set_index("language")
    layers = load_table(run.path / "tables" / "pair-layers.csv").set_index("layer")
    title = f"{run.manifest.model.source} beside the run {Path(run.manifest.pair['base']).name}"
    return {
        "settings": run.manifest.pair,
        "figure": keep_figure(run.path, pair_figure(table, layers, title), "pair"),
        "findings": pair_findings(table),
    }
