"""Draw the house of `architecture.py`: floors, rooms, and arrows that lead down.

Only the arrows that no longer way makes superfluous are drawn (the transitive reduction): if a room is reached over
another one, its own arrow would say nothing new. An arrow that passes a floor does so in a shaft between rooms, and
arrows to one room share their shafts.
"""

import json
import random
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import networkx as nx
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath

WIDTH, WALL, PAD, GAP, CEILING, SHAFT = 960, 26, 12, 14, 50, 26
TITLE, PURPOSE, FILES = 15.5, 11.5, 9.5
INK, QUIET, PAPER, LINE = "#1f2933", "#5b6874", "#ffffff", "#7b8794"
TINTS = ["#e8ecf8", "#e3eefa", "#dff1f6", "#def3ec", "#e6f4e0", "#f1f4d9", "#faf1d8", "#fae8d9", "#f6e2e0"]
EDGES = ["#5566b5", "#3f7fc1", "#2c8fa8", "#2b9377", "#5a983a", "#8f9a22", "#b98a1c", "#c26f2f", "#b6534a"]


@dataclass
class Box:
    """A room, or a shaft through a floor, with what is written in it."""

    name: str
    floor: int
    purpose: str = ""
    files: list[str] = field(default_factory=list)
    x: float = 0.0
    width: float = float(SHAFT)
    top: float = 0.0
    bottom: float = 0.0

    @property
    def is_room(self) -> bool:
        """Whether somebody lives here; else arrows pass through."""
        return bool(self.purpose)

    @property
    def middle(self) -> float:
        """Where arrows come and go."""
        return self.x + self.width / 2


@cache
def _length(text: str, size: float) -> float:
    return float(TextPath((0, 0), text, size=size, prop=FontProperties()).get_extents().width)


def _wrap(words: list[str], width: float, size: float, between: str = " ") -> list[str]:
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]}{between}{word}" if lines else word
        if lines and _length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _written(box: Box) -> tuple[list[str], list[str]]:
    """The lines of a room: what it is for, and its files, those of a folder after the folder's name."""
    width = box.width - 2 * PAD
    folders: dict[str, list[str]] = {}
    for name in box.files:
        folder, _, file = name.rpartition(".")
        folders.setdefault(folder, []).append(file)
    files = []
    for folder, inside in folders.items():
        said = [f"{folder}/ {inside[0]}", *inside[1:]] if folder else inside
        files += _wrap(said, width, FILES, " · ")
    return _wrap(box.purpose.split(), width, PURPOSE), files


def _height(box: Box) -> float:
    purpose, files = _written(box)
    return PAD * 1.7 + TITLE * 1.35 + len(purpose) * PURPOSE * 1.35 + (5 if files else 0) + len(files) * FILES * 1.45


def _place(floor: list[Box]) -> None:
    """Rooms fill the floor from wall to wall, wider where more is written."""
    rooms = [box for box in floor if box.is_room]
    free = WIDTH - 2 * WALL - 2 * GAP - GAP * (len(floor) - 1) - SHAFT * (len(floor) - len(rooms))
    wants = [len(box.purpose) + sum(len(name) + 2 for name in box.files) * 0.8 + 25 for box in rooms]
    least = min(170.0, free / len(rooms))
    spare = free - least * len(rooms)
    for box, want in zip(rooms, wants, strict=True):
        box.width = least + spare * want / sum(wants)
    x = float(WALL + GAP)
    for box in floor:
        box.x = x
        x += box.width + GAP


def _cost(floors: list[list[Box]], ways: list[tuple[Box, Box]]) -> float:
    """Crossings first, then how far arrows go sideways."""
    for floor in floors:
        _place(floor)
    cost = 0.0
    for i, (a, b) in enumerate(ways):
        cost += abs(a.middle - b.middle) / WIDTH
        for c, d in ways[i + 1 :]:
            if a.floor == c.floor and (a.middle - c.middle) * (b.middle - d.middle) < 0:
                cost += 3
    return cost


def _ordered(floors: list[list[Box]], ways: list[tuple[Box, Box]]) -> list[list[Box]]:
    """The order on each floor with the fewest crossings that swaps find, from several beginnings."""
    draw, best, least = random.Random(0), [list(floor) for floor in floors], _cost(floors, ways)
    for _ in range(12):
        tried = [draw.sample(floor, len(floor)) for floor in floors]
        cost, better = _cost(tried, ways), True
        while better:
            better = False
            for floor in tried:
                for i in range(len(floor)):
                    for j in range(i + 1, len(floor)):
                        floor[i], floor[j] = floor[j], floor[i]
                        now = _cost(tried, ways)
                        if now < cost - 1e-9:
                            cost, better = now, True
                        else:
                            floor[i], floor[j] = floor[j], floor[i]
        if cost < least:
            least, best = cost, [list(floor) for floor in tried]
    _cost(best, ways)
    return best


def _layout(plan: dict[str, Any]) -> tuple[list[list[Box]], list[tuple[Box, Box]]]:
    """Rooms and shafts in their places, and the ways between those of neighbouring floors."""
    floors = [
        [Box(one["room"], number, one["purpose"], one["files"]) for one in rooms]
        for number, rooms in enumerate(plan["floors"])
    ]
    rooms = {box.name: box for floor in floors for box in floor}
    arrows = nx.transitive_reduction(nx.DiGraph(map(tuple, plan["arrows"])))
    shafts: dict[tuple[str, int], Box] = {}
    ways: list[tuple[Box, Box]] = []
    for source, target in sorted(arrows.edges):
        at, to = rooms[source], rooms[target]
        for number in range(at.floor + 1, to.floor):
            if (target, number) not in shafts:
                shafts[target, number] = Box(target, number)
                floors[number].append(shafts[target, number])
            ways.append((at, shafts[target, number]))
            at = shafts[target, number]
        ways.append((at, to))
    ways = [way for i, way in enumerate(ways) if way not in ways[:i]]
    floors = _ordered(floors, ways)
    y = 0.0
    for floor in floors:
        height = max(_height(box) for box in floor if box.is_room)
        for box in floor:
            box.top, box.bottom = y, y + height
        y += height + CEILING
    return floors, ways


def _ports(ways: list[tuple[Box, Box]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each way leaves and enters: side by side in the order of where it comes from or leads to."""
    leave: dict[int, list[int]] = {}
    enter: dict[int, list[int]] = {}
    for i, (a, b) in enumerate(ways):
        leave.setdefault(id(a), []).append(i)
        enter.setdefault(id(b), []).append(i)

    def spread(box: Box, which: list[int], end: int) -> dict[int, float]:
        if not box.is_room:
            return dict.fromkeys(which, box.middle)
        which = sorted(which, key=lambda i: ways[i][end].middle)
        step = min(46.0, box.width * 0.72 / len(which))
        return {i: box.middle + step * (place - (len(which) - 1) / 2) for place, i in enumerate(which)}

    out: dict[int, float] = {}
    into: dict[int, float] = {}
    for a, b in ways:
        out |= spread(a, leave[id(a)], 1)
        into |= spread(b, enter[id(b)], 0)
    return {(id(a), id(b)): (out[i], into[i]) for i, (a, b) in enumerate(ways)}


def draw(plan: dict[str, Any], path: Path) -> None:
    """Write the drawing, with the plan in its description."""
    floors, ways = _layout(plan)
    roof, ground = 92.0, 20.0
    height = roof + CEILING * 0.6 + floors[-1][0].bottom + 30 + ground
    figure = plt.figure(figsize=(WIDTH / 72, height / 72), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")
    shift = roof + CEILING * 0.6
    foot = shift + floors[-1][0].bottom + 16
    axes.add_patch(Rectangle((WALL, roof), WIDTH - 2 * WALL, foot - roof, fc="#fbfbf9", ec=INK, lw=2.2))
    axes.add_patch(
        Polygon([(4, roof), (WIDTH / 2, 6), (WIDTH - 4, roof)], fc="#f0f1f4", ec=INK, lw=2.2, joinstyle="round")
    )
    middle = {"ha": "center", "va": "center"}
    axes.text(
        WIDTH / 2,
        roof - 38,
        "import neuroglot as ng",
        size=TITLE,
        weight="bold",
        color=INK,
        family="monospace",
        **middle,
    )
    axes.text(
        WIDTH / 2, roof - 16, "the roof hands on the names that scripts call", size=PURPOSE, color=QUIET, **middle
    )
    axes.plot([0, WIDTH], [foot, foot], color=INK, lw=2.2, solid_capstyle="butt")
    for x in range(-10, WIDTH, 12):
        axes.plot([x, x + 10], [foot + 12, foot + 2], color=LINE, lw=0.8)

    ports = _ports(ways)
    for floor in floors:
        for box in floor:
            if not box.is_room:
                color = EDGES[_target(box, floors).floor]
                axes.plot([box.middle] * 2, [shift + box.top, shift + box.bottom], color=color, lw=1.6)
    for a, b in ways:
        start, end = ports[id(a), id(b)]
        y0, y1 = shift + a.bottom, shift + b.top - (6 if b.is_room else 0)
        bend = (y1 - y0) * 0.55
        curve = Curve(
            [(start, y0), (start, y0 + bend), (end, y1 - bend), (end, y1)],
            [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4],
        )
        color = EDGES[_target(b, floors).floor]
        axes.add_patch(PathPatch(curve, fc="none", ec=color, lw=1.6, capstyle="butt"))
        if b.is_room:
            axes.add_patch(Polygon([(end - 4.5, y1 - 2), (end + 4.5, y1 - 2), (end, y1 + 6)], fc=color, ec="none"))
    for floor in floors:
        for box in floor:
            if box.is_room:
                _room(axes, box, shift)
    with matplotlib.rc_context({"svg.hashsalt": "neuroglot", "svg.fonttype": "path"}):
        about = {"Date": None, "Title": "The rooms of Neuroglot", "Description": json.dumps(plan, ensure_ascii=False)}
        figure.savefig(path, metadata=about if path.suffix == ".svg" else None)
    plt.close(figure)


def _target(box: Box, floors: list[list[Box]]) -> Box:
    return next(room for floor in floors for room in floor if room.is_room and room.name == box.name)


def _room(axes: Any, box: Box, shift: float) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x, shift + box.top), box.width, box.bottom - box.top, boxstyle="round,pad=0,rounding_size=7",
            fc=TINTS[box.floor], ec=EDGES[box.floor], lw=1.3,
        )
    )  # fmt: skip
    purpose, files = _written(box)
    y = shift + box.top + PAD + TITLE * 0.8
    name = f"{box.name}/" if box.files else box.name
    axes.text(box.x + PAD, y, name, size=TITLE, weight="bold", color=INK, va="baseline")
    y += TITLE * 0.25
    for line in purpose:
        y += PURPOSE * 1.35
        axes.text(box.x + PAD, y, line, size=PURPOSE, color=INK, va="baseline")
    y += 5
    for line in files:
        y += FILES * 1.45
        axes.text(box.x + PAD, y, line, size=FILES, color=QUIET, va="baseline")
