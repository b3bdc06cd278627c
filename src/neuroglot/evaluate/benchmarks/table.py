"""Tasks on a model that is changed in several ways: the papers' tables, each row compared with the intact model."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neuroglot.edit.interventions import Intervention, intervene
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.benchmarks.harness import TaskScore, load_tasks, score_task
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import paired

__all__ = ["INTACT", "Change", "TaskTable", "measure_tasks"]

INTACT = "intact"


@dataclass(frozen=True)
class Change:
    """A row of the table: what is done to the model.

    Attributes:
        name: what the row is called. Rows of one name and several seeds are shown as mean ± std.
        interventions: in force while the tasks run; none is the intact model.
        seed: of random neurons, None for others.
        only: the tasks that it is measured on, as a pattern (`_fr$`); all by default.
    """

    name: str
    interventions: tuple[Intervention, ...] = ()
    seed: int | None = None
    only: str = ""

    @property
    def file(self) -> str:
        """What its files are called."""
        slug = re.sub(r"[^\w.]+", "-", self.name).strip("-")
        return f"{slug}.{self.seed}.json" if self.seed is not None else f"{slug}.json"

    @property
    def neurons(self) -> int:
        """How many neurons it changes."""
        masks = [intervention.neurons for intervention in self.interventions]
        return int(torch.stack(masks).any(0).sum()) if masks else 0

    @property
    def digest(self) -> str:
        """Of what is done."""
        sha = hashlib.sha256()
        for intervention in self.interventions:
            sha.update(type(intervention).__name__.encode())
            for field in dataclasses.fields(intervention):
                value = getattr(intervention, field.name)
                if isinstance(value, Tensor):
                    sha.update(f"{field.name} {tuple(value.shape)} {value.dtype}".encode())
                    sha.update(value.detach().cpu().contiguous().numpy().tobytes())
                else:
                    sha.update(f"{field.name} {value}".encode())
        return sha.hexdigest()[:32]


@dataclass(frozen=True)
class TaskTable:
    """The scores of a model, intact and changed.

    Attributes:
        scores: (row, its seed, task) → score, rows in the order given.
        neurons: row → how many neurons it changes.
    """

    scores: dict[tuple[str, int | None, str], TaskScore]
    neurons: dict[str, int]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order given."""
        return list(dict.fromkeys(task for _, _, task in self.scores))

    def table(self) -> pd.DataFrame:
        """A row for every measurement, compared with the intact model on the same items.

        Columns: change, neurons (how many are changed), seed, task, metric, items, fewshot, value, stderr (the
        harness's); difference, low, high (95 % bootstrap), gained, lost, p (McNemar's exact test), empty for intact.

        Raises:
            NeuroglotError: the intact model was measured on other items.
        """
        rows = []
        for (name, seed, task), score in self.scores.items():
            for metric, value in score.metrics.items():
                row: dict[str, Any] = {
                    "change": name, "neurons": self.neurons[name], "seed": seed, "task": task, "metric": metric,
                    "items": len(score.items), "fewshot": score.fewshot, "value": value,
                    "stderr": score.stderr.get(metric),
                }  # fmt: skip
                intact = self.scores.get((INTACT, None, task))
                if name != INTACT and intact is not None and all(metric in item.scores for item in score.items):
                    if [item.digest for item in intact.items] != [item.digest for item in score.items]:
                        raise NeuroglotError(f"{task} was measured on other items for {name}; delete one and repeat.")
                    row |= dataclasses.asdict(paired(intact.scores(metric), score.scores(metric)))
                rows.append(row)
        columns = ["change", "neurons", "seed", "task", "metric", "items", "fewshot", "value", "stderr", "difference",
                   "low", "high", "gained", "lost", "p"]  # fmt: skip
        table = pd.DataFrame(rows, columns=columns)
        return table.astype({"seed": "Int64", "gained": "Int64", "lost": "Int64"})

    def items(self) -> pd.DataFrame:
        """Every item's score: change, seed, task, item, target, metric, score."""
        return pd.DataFrame(
            [
                (name, seed, task, item.id, item.target, metric, value)
                for (name, seed, task), score in self.scores.items()
                for item in score.items
                for metric, value in item.scores.items()
            ],
            columns=["change", "seed", "task", "item", "target", "metric", "score"],
        ).astype({"seed": "Int64"})

    def summary(self) -> pd.DataFrame:
        """The papers' shape: a row for each change and task, of the task's own metric; seeds as mean and std.

        Columns: change, neurons, task, metric, items, seeds, value, std (of the sample, over seeds), stderr,
        difference, low, high, p. Where there are seeds, value and difference are means, and only std says how sure.
        """
        full, rows = self.table(), []
        own = {task: score.metric for (_, _, task), score in self.scores.items()}
        for (name, task), group in full.groupby(["change", "task"], sort=False):
            group = group[group.metric == own[str(task)]]
            first, seeds = group.iloc[0], int(group.seed.notna().sum())
            one = seeds == 0
            rows.append(
                {
                    "change": name, "neurons": first.neurons, "task": task, "metric": first.metric,
                    "items": first["items"], "seeds": seeds, "value": group.value.mean(),
                    "std": None if one else group.value.std(ddof=1),
                    "stderr": first.stderr if one else None, "difference": group.difference.mean(),
                    **{column: first[column] if one else None for column in ("low", "high", "p")},
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def measure_tasks(
    model: Model,
    names: Sequence[str],
    changes: Sequence[Change] = (),
    *,
    fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
    data_dir: str | Path | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> TaskTable:
    """Score a model on tasks, intact and changed in each way, on the same items.

    Args:
        model: left as it was.
        names: see `tasks`.
        changes: the rows after the intact model's.
        fewshot: see `tasks`.
        limit: see `tasks`.
        batch_size: see `tasks`.
        seed: see `tasks`.
        data_dir: see `tasks`.
        directory: keeps `TASK/ROW.json` as soon as it is measured, and what is there is not measured again.
        progress: show a bar.

    Raises:
        NeuroglotError: what `tasks` raises; rows of the same name and seed; or `directory` holds results of other
            settings.
    """
    rows = [Change(INTACT), *changes]
    keys = [(row.name, row.seed) for row in rows]
    if len(set(keys)) < len(keys):
        raise NeuroglotError(f"Two rows are called {max(keys, key=keys.count)[0]}; give each another name or seed.")
    loaded = load_tasks(names, data_dir=data_dir)
    units = [(row, name) for name in loaded for row in rows if re.search(row.only, name)]
    base = {
        "model": model.fingerprint, "tokenizer": model.tokenizer_fingerprint, "fewshot": fewshot, "limit": limit,
        "seed": seed, "lm_eval": version("lm_eval"),
    }  # fmt: skip
    settings = {name: base | {"items": _digest(task, limit)} for name, task in loaded.items()}
    kept = {}
    for row, name in units:  # a mismatch is said before anything is measured
        file = None if directory is None else Path(directory) / name / row.file
        if file is not None and file.is_file():
            kept[row.name, row.seed, name] = _kept(file, settings[name] | {"change": row.digest})
    scores: dict[tuple[str, int | None, str], TaskScore] = {}
    with progress_bar("tasks", len(units), unit="measurements", shown=progress) as advance:
        for row, name in units:
            key = (row.name, row.seed, name)
            advance(0, f"{name}, {row.name}")
            if key in kept:
                scores[key] = kept[key]
            else:
                with intervene(model, *row.interventions) if row.interventions else nullcontext():
                    scores[key] = score_task(
                        model, loaded[name], fewshot=fewshot, limit=limit, batch_size=batch_size, seed=seed
                    )
                if directory is not None:
                    scores[key].save(Path(directory) / name / row.file, settings[name] | {"change": row.digest})
            advance(1, f"{name}, {row.name}")
    order: Callable[[tuple[str, int | None, str]], int] = lambda key: keys.index(key[:2])  # noqa: E731
    ordered = {key: scores[key] for key in sorted(scores, key=order)}
    return TaskTable(ordered, {row.name: row.neurons for row in rows})


def _kept(file: Path, settings: dict[str, Any]) -> TaskScore:
    score, before = TaskScore.load(file)
    differing = [name for name, value in settings.items() if before.get(name) != value]
    if differing:
        raise NeuroglotError(
            f"{file} was measured with another {' and '.join(differing)}; repeat those settings, or delete it to "
            "measure again."
        )
    return score


def _digest(task: Any, limit: int | None) -> str:
    """Of the items that will be scored."""
    sha = hashlib.sha256()
    for item in islice(task.eval_docs, limit):
        sha.update(json.dumps(item, ensure_ascii=False, default=str, sort_keys=True).encode())
    return sha.hexdigest()[:32]
