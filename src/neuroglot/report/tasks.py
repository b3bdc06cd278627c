"""The part of a report about tasks: what each condition costs, on the same items as the intact model."""

from typing import Any

import pandas as pd

from neuroglot.edit.conditions import INTACT
from neuroglot.run.directory import Run
from neuroglot.run.tasks import read_scores

__all__ = ["task_part"]


def task_part(run: Run) -> dict[str, Any] | None:
    """Gather what the page shows of the tables that `neuroglot evaluate tasks` wrote; None if it wrote none."""
    file = run.path / "tables" / "tasks.csv"
    if not run.manifest.tasks or not file.is_file():
        return None
    summary = read_scores(file, na_values={name: [""] for name in _NUMBERS})
    tasks: list[str] = list(dict.fromkeys(summary.task))
    rows: list[str] = list(dict.fromkeys(summary.condition))
    cells: dict[tuple[str, str], Any] = {(row.condition, row.task): row for row in summary.itertuples()}  # type: ignore[misc]
    return {
        "tasks": tasks,
        "rows": rows,
        "cells": {row: [_cell(cells.get((row, task))) for task in tasks] for row in rows},
        "neurons": {condition: int(row.neurons) for (condition, _), row in cells.items()},
        "metrics": [cells[INTACT, task].metric for task in tasks],
        "sizes": [f"{cells[INTACT, task].items:.0f}" for task in tasks],
        "smoke": [task for task in tasks if task.startswith("smoke_")],
        "findings": _findings(summary),
    }


_NUMBERS = ["neurons", "items", "seeds", "value", "std", "stderr", "difference", "low", "high", "p"]


def _cell(row: Any) -> dict[str, str]:
    """A cell's score and, below it, its error and its difference from intact."""
    if row is None:
        return {"value": "", "below": ""}
    times, form = (100, ".1f") if getattr(row, "unit", "share") == "share" else (1, ".4g")  # its metric's own
    value = f"{times * row.value:{form}}"
    if row.seeds:
        return {"value": f"{value} ± {times * row.std:{form}}" if row.std == row.std else value, "below": ""}
    error = f"± {times * row.stderr:{form}}" if row.stderr == row.stderr else ""
    if row.low != row.low:
        return {"value": value, "below": error}
    p = "" if row.p != row.p else f", p = {row.p:.2g}"
    star = "*" if row.p < 0.05 else ""
    return {"value": value + star, "below": f"{times * row.low:+.3g} to {times * row.high:+.3g}{p}"}


def _findings(summary: pd.DataFrame) -> list[str]:
    """Which rows differ from the intact model, in sentences."""
    tested = summary[summary.p.notna()]
    if tested.empty:
        return []
    differing = tested[tested.p < 0.05]
    rows: list[Any] = list(differing.itertuples())
    said = [
        f"{row.condition} on {row.task}: {100 * row.difference:+.1f} points (95 % interval {100 * row.low:+.0f} to "
        f"{100 * row.high:+.0f}, p = {row.p:.2g})."
        for row in rows
    ]
    return [
        f"{len(differing)} of {len(tested)} comparisons with the intact model have p < 0.05; by chance alone about "
        f"{0.05 * len(tested):.1f} at most would.",
        *said,
    ]
