"""The lens on a page: its tables, its figures, and what they show in words."""

from pathlib import Path
from typing import Any

from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.figures.lens import lens_curve_figure, lens_figure, lens_findings
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.run.directory import Run

__all__ = ["lens_part", "write_lens"]


def write_lens(found: Lens, folder: Path, model: str) -> dict[str, str]:
    """Write the tables and figures of a lens into `tables/` and `figures/`, and give the figures for a page."""
    keep_table(folder, "lens", found.frame())
    keep_table(folder, "lens-curve", found.curve())
    figures = {
        "lens": lens_figure(found, f"Whose tokens are likely after each layer of {model}"),
        "lens-likeliest": lens_figure(
            found, f"Whose the {found.about['top']} likeliest tokens are after each layer of {model}",
            measure="likeliest",
        ),
        "lens-curve": lens_curve_figure(found, f"Layers of {model} read through its head"),
    }  # fmt: skip
    return {name: keep_figure(folder, figure, name) for name, figure in figures.items()}


def lens_part(run: Run) -> dict[str, Any] | None:
    """Write the tables and figures of a run's lens, and gather what the page shows; None if it is not there."""
    if run.manifest.lens is None or not run.lens_path.is_file():
        return None
    found = Lens.load(run.lens_path)
    return {
        "settings": run.manifest.lens,
        "figures": write_lens(found, run.path, run.manifest.model.source),
        "findings": lens_findings(found),
        "sizes": found.about["sizes"],
    }
