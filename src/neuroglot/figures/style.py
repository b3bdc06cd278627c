"""How figures look, and how they are saved."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from neuroglot.storage.atomic import atomic_path

__all__ = ["save_figure"]

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


CELL = 0.52  # inches


COLOURS = "YlGnBu"  # pale to dark in lightness too, so that it survives grey print and colour blindness


def _canvas(
    columns: int, rows: float, left: float, right: float, top: float = 0.75, bottom: float = 0.95
) -> tuple[Figure, Axes]:
    """A figure whose one axes has cells of one size, with margins in inches."""
    width, height = left + columns * CELL + right, top + rows * CELL + bottom
    figure = Figure(figsize=(width, height))
    box = (left / width, bottom / height, columns * CELL / width, rows * CELL / height)
    return figure, figure.add_axes(box)


def _readable_on(colour: Any) -> str:
    red, green, blue = colour[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _draws(seeds: int) -> str:
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def _reduce(path: Path) -> None:
    """Rewrite a PNG with 256 colours, rare ones among them, in about half the bytes; nobody sees the difference."""
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(path, format="PNG", optimize=True)


def save_figure(figure: Figure, directory: str | Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF.

    Raises:
        NeuroglotError: the directory cannot be written.
    """
    paths = []
    for kind in ("png", "pdf"):
        path = Path(directory) / f"{name}.{kind}"
        with atomic_path(path) as draft:
            # no dates inside, so that the same run gives the same bytes
            metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
            figure.savefig(draft, format=kind, dpi=160, metadata=metadata)
            if kind == "png":
                _reduce(draft)
        paths.append(path)
    return paths
