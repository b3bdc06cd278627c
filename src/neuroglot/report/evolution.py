"""What `evolve` measured, as tables, figures and a page."""

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.figure import Figure

from neuroglot.figures.alignment import evolution_figure, region_layers_figure, sizes_figure
from neuroglot.report.files import keep_figure
from neuroglot.run.evolution import Evolution
from neuroglot.storage.atomic import save_text
from neuroglot.storage.tables import save_table

__all__ = ["evolution_report"]

UNSAFE = r"[^\w.+=-]+"  # of a revision's name, such as refs/pr/1, in a file's


def evolution_report(evolution: Evolution, out: str | Path, *, sizes: bool = False) -> Path:
    """Write `tables/evolution.csv`, the figures and `report.html` into `out`, and give the page's path.

    Args:
        evolution: what was measured.
        out: a directory.
        sizes: whether models of several sizes are compared (Zeng et al. 2025, Figure 7) or one in training (Figure 4).

    Raises:
        NeuroglotError: the directory cannot be written.
    """
    out = Path(out)
    table = evolution.table
    save_table(out / "tables" / "evolution.csv", table)
    for name, layers in evolution.layers.items():
        save_table(out / "tables" / f"layers-{re.sub(UNSAFE, '-', name)}.csv", layers.reset_index())
    if "perplexity" not in table and not evolution.tasks:
        table = table.assign(perplexity=float("nan"))
    if "sklr_share" not in table:
        table = table.assign(sklr_share=float("nan"))
    figures: dict[str, Figure] = {}
    if sizes:
        figures["sizes"] = sizes_figure(table, evolution.tasks, "Alignment by model size")
    else:
        figures["evolution"] = evolution_figure(table, "step", evolution.tasks, "Alignment over training")
    if evolution.regions:
        figures["region-layers"] = region_layers_figure(evolution.regions, "Where the key regions are")
    shown = {name: keep_figure(out, figure, name) for name, figure in figures.items()}
    columns = ["checkpoint", "step", "parameters", "lrds", "sads", "sklr", "perplexity", *evolution.tasks]
    page = _TEMPLATES.get_template("evolution.html").render(
        rows=evolution.table.to_dict("records"), columns=[c for c in columns if c in evolution.table], figures=shown
    )
    return save_text(out / "report.html", page)


_TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
)
