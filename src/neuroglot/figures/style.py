"""How figures look, and how they are saved."""

import base64
from pathlib import Path
from typing import Any, Literal, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import atomic_path

__all__ = ["image_text", "layer_axis", "name_lowest", "save_figure", "surface", "whole"]

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


CELL = 0.52  # inches


DPI = 160  # of a PNG


COLOURS = "YlGnBu"  # pale to dark in lightness too, so that it survives grey print and colour blindness


Surface: TypeAlias = Figure | SubFigure


def surface(
    size: tuple[float, float], ax: Axes | None, layout: Literal["constrained"] | None = "constrained"
) -> Surface:
    """What a figure is drawn on: a figure of its own, or the place of `ax` in somebody else's, which gives way to it.

    Args:
        size: width and height of a figure of its own, in inches.
        ax: an axes of a grid, as `plt.subplots` makes them.
        layout: of a figure of its own; one that has `ax` and no layout engine gets it too.

    Raises:
        NeuroglotError: `ax` stands in no grid.
    """
    if ax is None:
        return Figure(figsize=size, layout=layout)
    place = ax.get_subplotspec()
    if place is None:
        raise NeuroglotError("ax must be of a grid, as plt.subplots or figure.add_subplot makes it.")
    host, root = ax.get_figure(root=False), ax.get_figure(root=True)
    assert host is not None
    assert root is not None
    if layout is not None and root.get_layout_engine() is None:
        root.set_layout_engine(layout)
    part = host.add_subfigure(place)
    ax.remove()
    return part


def whole(part: Surface) -> Figure:
    """The figure that a surface is, or is part of."""
    found = part.get_figure(root=True)
    assert found is not None
    return found


def _canvas(
    columns: int, rows: float, left: float, right: float, top: float, bottom: float, ax: Axes | None
) -> tuple[Surface, Axes, tuple[float, float]]:
    """A surface whose one axes has cells of one size, with margins in inches, and its width and height."""
    width, height = left + columns * CELL + right, top + rows * CELL + bottom
    figure = surface((width, height), ax, layout=None)
    box = (left / width, bottom / height, columns * CELL / width, rows * CELL / height)
    return figure, figure.add_axes(box), (width, height)


def name_lowest(grid: Any, count: int, label: str) -> None:
    """Name the x axis under the lowest panel of each column, of a grid of which only the first `count` are shown."""
    columns = grid.shape[1]
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for column in range(min(columns, count)):
        lowest = grid[(count - 1 - column) // columns, column]
        lowest.set_xlabel(label)
        lowest.tick_params(labelbottom=True)


def layer_axis(axes: Axes) -> None:
    """Whole numbers from 1: there is no layer 0."""
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(left=max(0.5, axes.get_xlim()[0]))


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
    for title in (*figure.texts, *(axes.title for axes in figure.axes)):
        title.set_wrap(True)  # a model may be a long path, and the figure of few layers narrow
    paths, layout = [], figure.get_layout_engine()
    try:
        for kind in ("png", "pdf"):
            path = Path(directory) / f"{name}.{kind}"
            with atomic_path(path) as draft:
                # no dates inside, so that the same run gives the same bytes
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                figure.savefig(draft, format=kind, dpi=DPI, metadata=metadata)
                if kind == "png":
                    _reduce(draft)
            paths.append(path)
            figure.set_layout_engine("none")  # laid out once for both files, which takes as long as drawing one
    finally:
        figure.set_layout_engine(layout)
    return paths


def image_text(png: Path) -> str:
    """An image as a page holds it, in base64."""
    return base64.b64encode(png.read_bytes()).decode("ascii")
