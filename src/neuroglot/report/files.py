"""What a page leaves beside itself: a table in `tables/`, a figure in `figures/`, which the page holds as text, too."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from neuroglot.figures.style import image_text, save_figure
from neuroglot.storage.tables import save_table

__all__ = ["keep_figure", "keep_table"]


def keep_figure(folder: Path, figure: Figure, name: str) -> str:
    """Save a figure of a page in this folder, and give it as text for the page."""
    png, _ = save_figure(figure, folder / "figures", name)
    return image_text(png)


def keep_table(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Save a table of a page in this folder, without its index."""
    save_table(folder / "tables" / f"{name}.csv", table)
