"""The house: which rooms stand on which floor, whether every import points down, and the drawing of it.

    python tools/architecture.py            names what is wrong, or writes docs/images/architecture.svg
    python tools/architecture.py --check    names what is wrong, a drawing that is out of date included

The floors are declared here and nowhere else. `docs/architecture.md` shows the drawing; `tests/test_architecture.py`
runs the check.
"""

import ast
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
DRAWING = ROOT / "docs" / "images" / "architecture.svg"

FLOORS: list[dict[str, str]] = [
    {"cli": "options in, a step called, a table printed"},
    {
        "studies": "a paper, from its first step to its last table",
        "explorer": "a run in the browser",
        "report": "a run as one page",
    },
    {"run": "the run directory, and a file for each step in it", "figures": "values in, figures and sentences out"},
    {"evaluate": "measure a model, intact or edited"},
    {
        "generation": "write text",
        "alignment": "one meaning in many languages",
        "recording": "one pass over text becomes a value",
        "pruning": "write a smaller model",
    },
    {
        "identify": "which neurons are a language's: a file a method",
        "edit": "change a running model, or its weights",
        "experts": "groups of neurons",
        "tokens": "text into shards of tokens",
    },
    {
        "corpus": "text by language",
        "models": "open a model, and where its neurons are",
        "artifacts": "the values that steps hand each other",
    },
    {
        "languages": "tags, families, which language a text is in",
        "storage": "files that are complete or absent",
        "stats": "intervals and tests",
        "plugins": "entry points",
    },
    {
        "errors": "one sentence: what is wrong, what to do",
        "progress": "bars and plain lines",
        "faces": "names handed on when first asked for",
    },
]
"""From the roof to the ground: room → what it is for. A room imports from the floors below its own."""

LINES = 450
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class House:
    """What the imports say.

    Attributes:
        files: module name below the package (`identify.lape`; a package is its own name) → its file.
        imports: (importer, imported) → the names that come over, for all files but the faces.
        faces: (room, imported) of what a room hands on in its `__init__.pyi`.
        outside: Python files that belong to no package.
    """

    files: dict[str, Path]
    imports: dict[tuple[str, str], set[str]]
    faces: set[tuple[str, str]]
    outside: list[Path]


def read(source: Path, package: str = "neuroglot") -> House:
    """Read every import of a package, also those inside functions and those for type checkers."""
    root = source / package
    files, outside = {}, []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts == (package, "__main__"):
            continue  # the door: `python -m neuroglot`
        folders = [source.joinpath(*parts[:depth]) for depth in range(1, len(parts))]
        if parts[0] != package or not all((folder / "__init__.py").is_file() for folder in folders):
            outside.append(path.relative_to(source))
            continue
        files[".".join(parts[1:-1] if parts[-1] == "__init__" else parts[1:])] = path
    imports: dict[tuple[str, str], set[str]] = {}
    for module, path in files.items():
        for target, name in _imports(path, package, files):
            if module:  # the roof hands on names of every room
                imports.setdefault((module, target), set()).add(name)
    faces = {
        (stub.parent.relative_to(root).parts[0], target)
        for stub in root.rglob("*/__init__.pyi")
        for target, _ in _imports(stub, package, files)
    }
    return House(files, imports, faces, outside)


def _imports(path: Path, package: str, files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    """The modules of the package that a file imports, each with the name that it takes from there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, package)
            if base.split(".")[0] == package:
                base = base.partition(".")[2]
                for alias in node.names:
                    inner = f"{base}.{alias.name}".lstrip(".")
                    yield (inner, "") if inner in files else (base, alias.name)
        elif isinstance(node, ast.Import):
            yield from (_split(alias.name) for alias in node.names if alias.name.split(".")[0] == package)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and str(first.value).split(".")[0] == package:
                yield _split(str(first.value))


def _split(name: str) -> tuple[str, str]:
    return name.partition(".")[2], ""


def _absolute(node: ast.ImportFrom, path: Path, package: str) -> str:
    """The module of a `from … import`, relative ones included."""
    if not node.level:
        return node.module or ""
    parts = path.parts[path.parts.index(package) : -1]
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def room_of(module: str) -> str:
    """The room that a module is in."""
    return module.split(".")[0]


def faults(house: House, floors: list[dict[str, str]] = FLOORS) -> list[str]:
    """What is wrong with a house, a sentence each."""
    level = {room: number for number, rooms in enumerate(floors) for room in rooms}
    found = [f"{path} is outside the house." for path in house.outside]
    for room in sorted({room_of(module) for module in house.files if module} - set(level)):
        found.append(f"{room} is on no floor.")
    for module, path in house.files.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES:
            found.append(f"{module} has {lines} lines, more than {LINES}.")
        if NAMELESS & set(module.split(".")):
            found.append(f"{module} has a name that says nothing.")

    through = [(module, target, names) for (module, target), names in sorted(house.imports.items())]
    for module, target, names in through:
        if target == "":
            if names - {"__version__"}:
                found.append(f"{module} imports {', '.join(sorted(names))} through the roof.")
        elif room_of(module) != room_of(target) and house.files[target].name == "__init__.py":
            found.append(f"{module} imports through the face of {target}.")
    for module, target, way in [(m, t, "imports") for m, t, _ in through] + [
        (m, t, "hands on") for m, t in house.faces
    ]:
        here, there = room_of(module), room_of(target)
        if here != there and {here, there} <= set(level) and level[here] >= level[there]:
            where = "on its own floor" if level[here] == level[there] else "on a floor above"
            found.append(f"{module} {way} {target}, {where}.")

    graph = nx.DiGraph([pair for pair in house.imports if pair[1] and pair[0] != pair[1]])
    for circle in nx.strongly_connected_components(graph):
        if len(circle) > 1:
            steps = [step for step, _ in nx.find_cycle(graph.subgraph(circle), min(circle))]
            found.append(f"A circle: {' → '.join([*steps, steps[0]])}.")
    return found


def plan(house: House, floors: list[dict[str, str]] = FLOORS) -> dict[str, Any]:
    """What is drawn: floors of rooms with their files, and which rooms each imports from."""
    faces = {module for module, path in house.files.items() if path.with_suffix(".pyi").is_file()}
    ways = [(room_of(a), room_of(b)) for a, b in house.imports if b and a not in faces]
    arrows = sorted({(a, b) for a, b in ways if a != b})
    names = {room_of(module) for module in house.files if module}
    files = {
        room: [module.partition(".")[2] for module, path in house.files.items()
               if room_of(module) == room and module != room and path.name != "__init__.py"]
        for room in names
    }  # fmt: skip
    return {
        "floors": [
            [
                {"room": room, "purpose": purpose, "files": [name for name in files[room] if name != "__main__"]}
                for room, purpose in rooms.items()
                if room in names
            ]
            for rooms in floors
        ],
        "arrows": [list(arrow) for arrow in arrows],
    }


def drawn(drawing: Path = DRAWING) -> dict[str, Any] | None:
    """The plan that a drawing was made from, which it carries in its description; None if there is no drawing."""
    if not drawing.is_file():
        return None
    said = ET.parse(drawing).find(".//{http://purl.org/dc/elements/1.1/}description")
    return None if said is None or said.text is None else dict(json.loads(said.text))


def main() -> int:
    """Check, and draw unless asked only to check."""
    house = read(SOURCE)
    wrong = faults(house)
    if not wrong and "--check" in sys.argv and drawn() != plan(house):
        wrong = [f"{DRAWING.relative_to(ROOT)} is out of date: make architecture."]
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    if not wrong and "--check" not in sys.argv:
        from drawing import draw

        draw(plan(house), DRAWING)
        print(f"{len(house.files)} files, {sum(map(len, plan(house)['floors']))} rooms: {DRAWING.relative_to(ROOT)}")
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
