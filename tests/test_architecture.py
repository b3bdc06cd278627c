"""The house: every import points down, every file has its room, and the drawing shows what is there."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load_tool(name):
    """A script of `tools/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


architecture = load_tool("architecture")

FLOORS = [{"cli": "options in"}, {"report": "a page", "explorer": "an app"}, {"errors": "one sentence"}]
IN_ORDER = {
    "__init__.py": "from house.faces import hand_on\n",
    "__init__.pyi": "from house.report.page import report as report\n",
    "cli/__init__.py": "",
    "cli/app.py": "from house import __version__\nfrom house.report.page import report\n",
    "report/__init__.py": "",
    "report/page.py": "from house.errors import HouseError\n\n\ndef report(): ...\n",
    "explorer/__init__.py": "",
    "explorer/app.py": "def build():\n    from house.errors import HouseError\n",
    "errors.py": "class HouseError(Exception): ...\n",
}


@pytest.fixture
def faults(tmp_path):
    """What is wrong with a small house after some of its files are replaced or added."""

    def build(**changed):
        files = IN_ORDER | {name.replace("__", "/").replace("//", "__") + ".py": text for name, text in changed.items()}
        for name, text in files.items():
            path = tmp_path / "house" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return architecture.faults(architecture.read(tmp_path, "house"), FLOORS)

    return build


# --- this house -------------------------------------------------------------------------------------------------------


def test_every_import_points_down_and_every_file_has_its_room():
    assert architecture.faults(architecture.read(architecture.SOURCE)) == []


def test_the_drawing_shows_what_is_there():
    plan = json.loads(json.dumps(architecture.plan(architecture.read(architecture.SOURCE))))
    assert architecture.drawn() == plan, "the drawing is out of date: make architecture"


def test_every_room_is_explained():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for rooms in architecture.plan(architecture.read(architecture.SOURCE))["floors"]:
        for room in rooms:
            assert f"`{room['room']}" in page, room["room"]


# --- what would be noticed --------------------------------------------------------------------------------------------


def test_a_house_in_order_has_no_faults(faults):
    assert faults() == []


def test_a_circle_is_found(faults):
    (fault,) = faults(
        report__page="import house.report.table\n", report__table="from house.report.page import report\n"
    )
    assert fault == "A circle: report.page → report.table → report.page."


def test_a_circle_inside_functions_is_found(faults):
    late = "def late():\n    from house.report import {}\n"
    (fault,) = faults(report__page=late.format("table"), report__table=late.format("page"))
    assert fault.startswith("A circle")


def test_an_arrow_that_points_up_is_found(faults):
    assert faults(errors="from house.report.page import report\n")[0] == "errors imports report.page, on a floor above."


@pytest.mark.parametrize(
    "text",
    [
        "from house.explorer.app import build\n",
        "from ..explorer.app import build\n",
        "import house.explorer.app\n",
        "def late():\n    from house.explorer import app\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.explorer.app import build\n",
        'import importlib\nimportlib.import_module("house.explorer.app")\n',
    ],
    ids=["name", "relative", "module", "in a function", "for type checkers", "by name"],
)
def test_an_arrow_to_the_next_room_is_found_however_it_is_written(faults, text):
    assert faults(report__page=text) == ["report.page imports explorer.app, on its own floor."]


def test_a_face_that_hands_on_from_above_is_found(faults, tmp_path):
    faults()
    (tmp_path / "house/report/__init__.pyi").write_text("from house.cli.app import main as main\n")
    assert faults() == ["report hands on cli.app, on a floor above."]


def test_an_import_through_a_face_or_the_roof_is_found(faults):
    assert faults(cli__app="import house.report\n") == ["cli.app imports through the face of report."]
    assert faults(cli__app="from house import report_all\n") == ["cli.app imports report_all through the roof."]


def test_a_room_on_no_floor_is_found(faults):
    assert faults(attic="") == ["attic is on no floor."]


def test_a_long_file_is_found(faults):
    assert faults(errors="\n" * 450) == []
    assert faults(errors="\n" * 451) == ["errors has 451 lines, more than 450."]


def test_a_module_outside_the_house_is_found(faults, tmp_path):
    (tmp_path / "shed.py").write_text("")
    (tmp_path / "house/report/cellar").mkdir(parents=True)
    (tmp_path / "house/report/cellar/wine.py").write_text("")  # its folder is no package
    assert faults() == ["house/report/cellar/wine.py is outside the house.", "shed.py is outside the house."]


@pytest.mark.parametrize("name", ["utils", "helpers", "common"])
def test_a_name_that_says_nothing_is_found(faults, name):
    assert faults(**{f"report__{name}": ""}) == [f"report.{name} has a name that says nothing."]


@pytest.mark.long
@pytest.mark.slow
def test_a_drawing_of_another_house_is_noticed(tmp_path):
    draw = load_tool("drawing").draw
    plan = architecture.plan(architecture.read(architecture.SOURCE))
    draw(plan, tmp_path / "house.svg")
    assert architecture.drawn(tmp_path / "house.svg") == plan
    plan["floors"][0][0]["files"].append("new")
    assert architecture.drawn(tmp_path / "house.svg") != plan
    assert architecture.drawn(tmp_path / "nowhere.svg") is None
