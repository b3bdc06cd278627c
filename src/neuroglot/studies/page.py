"""A study's page: for every table and figure of the paper, its words and numbers beside what was measured."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape

from neuroglot.figures.style import image_text
from neuroglot.storage.atomic import save_text
from neuroglot.storage.names import whole_number
from neuroglot.storage.tables import load_table
from neuroglot.studies.paper import Item
from neuroglot.studies.study import Study

__all__ = ["TEMPLATES", "agreement", "study_page"]

ROWS = 24
"""Longer tables are linked and not shown."""
TEXTS = 6
"""Rows of a table of texts that are shown; the rest is in its file."""
NARROW = 64
"""Letters a line: wider tables do not fit beside the other side's words."""


def study_page(study: Study) -> Path:
    """Write `study.html` of everything that is finished, self-contained, and give its path."""
    shown = [_shown(study, item) for item in study.paper["items"]]
    page = TEMPLATES.get_template("study.html").render(
        paper=study.paper, study=study, settings=_said(study.settings.model_dump()), items=shown, run=study.run.manifest
    )
    return save_text(study.path / "study.html", page)


def agreement(kept: dict[str, Any] | None) -> str:
    """Whether what was measured agrees with the paper, in a word or two."""
    if kept is None or kept["failed"] is not None:
        return "not measured"
    return {True: "agrees", False: "does not agree", None: "no verdict"}[kept["agrees"]]


def _shown(study: Study, item: Item) -> dict[str, Any]:
    kept = study.found(item, failed=True)
    shown: dict[str, Any] = {
        "item": item,
        "kept": kept,
        "agreement": agreement(kept),
        "tables": [],
        "figures": [],
        "wide": False,
    }
    if item.table is not None:
        shown["numbers"] = item.table
        shown["wide"] = _width(item.table) > NARROW
    if kept is None:
        return shown
    folder = study.path / "study"
    remedy = f"delete {folder / item.key}.json to measure it again"
    for suffix, name in kept["tables"].items():
        table = load_table(folder / name, remedy, keep_default_na=False, dtype=str)
        if len(table):
            table = table.loc[:, (table != "").any()]  # not, say, deviations of one draw
        small = len(table) <= ROWS and suffix != "answers"
        table = table.map(_cell) if small else table
        texts = bool({"normal", "prompt", "question"} & set(table.columns))
        more = max(0, len(table) - TEXTS) if texts else 0
        table = table.iloc[:TEXTS] if texts else table.rename(columns=lambda column: str(column).replace("_", " "))
        shown["tables"].append(
            {"suffix": suffix, "name": name, "table": table if small else None, "texts": texts, "more": more,
             "beside": small and not texts and (item.key.startswith("table") or not kept["figures"])
             and suffix == "" and _width(table) <= NARROW}
        )  # fmt: skip
    for suffix, name in kept["figures"].items():
        shown["figures"].append({"suffix": suffix, "name": name, "image": image_text(folder / name)})
    return shown


def _width(table: pd.DataFrame) -> int:
    """Letters of the longest line, with the space between columns."""
    return sum(3 + max(len(str(name)), *(len(str(cell)) for cell in table[name]), 1) for name in table.columns)


def _cell(text: str) -> str:
    """A number as short as it can be read; anything else as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    if whole_number(text.lstrip("-")) is not None:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _said(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Settings as one list: `perturb.tokens` → `250`."""
    said: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            said |= _said(value, f"{before}{name}.")
        elif value is not None and value != []:
            said[before + name] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return said


TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
)
