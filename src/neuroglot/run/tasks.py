"""Tasks in a run: the rows of the papers' tables, from the neurons and experts that the run has."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.edit.conditions import Condition
from neuroglot.edit.interventions import Deactivate
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.perturbation import random_neurons
from neuroglot.evaluate.benchmarks.table import TaskTable, measure_tasks
from neuroglot.experts.keep import keep_random
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.pruning import RULES, expert_scores, replaced_rows
from neuroglot.storage.locks import locked
from neuroglot.storage.tables import csv_text, load_table, save_table

__all__ = [
    "forget_pruned",
    "forget_tasks",
    "keep_tables",
    "measure_and_keep",
    "off_conditions",
    "pruned_conditions",
    "read_scores",
    "table_paths",
    "tasks_of_run",
]


def off_conditions(
    neurons: NeuronSet, languages: Sequence[str] | None = None, *, method: str, seeds: int = 3
) -> list[Condition]:
    """Each language's neurons off, and random ones: as many as the largest of these sets.

    Args:
        neurons: of the model.
        languages: whose; by default all.
        method: that found them, for the rows' names.
        seeds: how many random rows.

    Raises:
        NeuroglotError: a language has no set.
    """
    off = {tag: neurons[tag] for tag in (neurons.languages if languages is None else languages)}
    size = max((int(mask.sum()) for mask in off.values()), default=0)
    rows = [Condition(f"{tag} off, {method}", (Deactivate(mask),)) for tag, mask in off.items()]
    return rows + [
        Condition(f"random off, {size} neurons", (Deactivate(random_neurons(neurons, size, seed)),), seed)
        for seed in range(seeds if off else 0)
    ]


def pruned_conditions(
    run: Run,
    model: Model,
    languages: Sequence[str],
    rules: Sequence[tuple[str, float]],
    *,
    salience: str = "magnitude",
    seeds: int = 3,
    own: bool = False,
) -> list[Condition]:
    """Only a language's experts left, and random ones, as many in each layer (Liu et al. 2024, Tables 3 to 6 and 10).

    Neurons are switched off, which gives the logits of the pruned model without writing one.

    Args:
        run: has counted experts.
        model: the run's.
        languages: each keeps the experts that it uses.
        rules: `threshold`, `share` or `budget`, and its value; see `experts.keep_threshold` and its neighbours.
        salience: what a budget ranks experts by; the others go by frequency.
        seeds: how many random choices each is compared with.
        own: measure each only on tasks of its language, those whose name ends with it, as the paper does.

    Raises:
        NeuroglotError: the run has no experts, or a layer would keep none.
    """
    partition, scores, rows = run.partition, expert_scores(run, model), []
    partition.check(model)
    for tag in languages:
        if tag not in run.expert_recording.languages:
            have = ", ".join(run.expert_recording.languages)
            raise NeuroglotError(f"{run.path} has not counted experts in {tag}; it has {have}.")
        only = rf"_{tag}$" if own else ""
        for rule, value in rules:
            kept = RULES[rule](scores(tag, salience if rule == "budget" else "frequency"), value)
            name = f"{tag} pruned, {rule} {value:g}"
            rows.append(Condition(name, (Deactivate(partition.neurons(~kept)),), only=only))
            rows += [
                Condition(f"random for {name}", (Deactivate(partition.neurons(~keep_random(kept, seed))),), seed, only)
                for seed in range(seeds)
            ]
    return rows


def table_paths(folder: Path) -> list[Path]:
    """Where a run, or another folder, has the tables of its tasks."""
    return [folder / "tables" / f"{name}.csv" for name in ("tasks", "tasks-all", "tasks-items")]


def read_scores(path: Path, **how: Any) -> pd.DataFrame:
    """One of these tables; earlier runs called the condition `change`."""
    table = load_table(path, "delete it and run `neuroglot evaluate tasks` again", keep_default_na=False, **how)
    return table.rename(columns={"change": "condition"})


def keep_tables(folder: Path, table: TaskTable) -> None:
    """Write `tables/tasks.csv` (the papers' shape), `tasks-all.csv` and `tasks-items.csv` of a run or another folder.

    Rows of other tasks and conditions that are there stay.
    """
    frames = (table.summary(), table.table(), table.items())
    with locked(folder):
        for path, frame in zip(table_paths(folder), frames, strict=True):
            text = csv_text(frame)
            if path.is_file():
                fresh = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
                text = replaced_rows(read_scores(path, dtype=str), fresh, ["condition", "task"])
            save_table(path, text)


def forget_tasks(run: Run, method: str) -> None:
    """Drop what tasks measured with a method's neurons, since it has found others."""
    _forget(run, f"*/*-off-{method}.json", rf" off, {re.escape(method)}$")


def forget_pruned(run: Run) -> None:
    """Drop what tasks measured with a language's experts alone, since others are its most frequent by now."""
    _forget(run, "*/*pruned-*.json", " pruned, ")


def _forget(run: Run, files: str, conditions: str) -> None:
    """Drop the files of some conditions, and their rows of the tables."""
    with locked(run.path):
        for file in (run.path / "tasks").glob(files):
            file.unlink()
        for path in (run.path / "tables").glob("tasks*.csv"):
            old = read_scores(path, dtype=str)
            save_table(path, old[~old.condition.str.contains(conditions, regex=True)])


def tasks_of_run(
    run: Run,
    names: list[str],
    how: dict[str, Any],
    *,
    method: str,
    off: list[str] | None,
    prune: list[str],
    rules: list[tuple[str, float]],
    own: bool = False,
    seeds: int = 3,
) -> TaskTable:
    """Measure tasks on a run's model, in all its rows, and keep them in the run."""

    switched = off != []
    neurons = run.neurons(method) if switched else None
    if rules:
        run.check_experts()
    model = run.load_model()
    run.check(model)
    conditions = [] if neurons is None else off_conditions(neurons.of_model(model), off, method=method, seeds=seeds)
    if rules:
        conditions += pruned_conditions(run, model, prune, rules, seeds=seeds, own=own)
    table = measure_and_keep(model, names, conditions, how, run.path)
    entry = {"tasks": table.tasks, "rows": list(table.neurons), "method": method if switched else None, **how}
    try:
        with run.changing() if neurons is None else run.measured_with(neurons, method, ()) as manifest:
            if entry not in manifest.tasks:
                manifest.tasks.append(entry)
    except NeuroglotError:  # other neurons were found meanwhile
        forget_tasks(run, method)
        raise
    return table


def measure_and_keep(
    model: Model, names: list[str], conditions: list[Condition], how: dict[str, Any], folder: Path
) -> TaskTable:
    """Measure, and write the tables."""
    table = measure_tasks(model, names, conditions, directory=folder / "tasks", **how)
    keep_tables(folder, table)
    return table
