"""Tasks on a model that is changed in several ways: the papers' tables, each row compared with the intact model."""

import dataclasses
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neuroglot.edit.conditions import INTACT, Condition
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.benchmarks.harness import TaskScore, load_tasks, score_task
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import paired
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import refuse_differing

__all__ = ["TaskTable", "measure_tasks"]

RESAMPLES = 2_000  # of the bootstrap of a perplexity


@dataclass(frozen=True)
class TaskTable:
    """The scores of a model, intact and in other conditions.

    Attributes:
        scores: (condition, its seed, task) → score, conditions in the order given.
        neurons: condition → how many neurons it changes.
    """

    scores: dict[tuple[str, int | None, str], TaskScore]
    neurons: dict[str, int]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in the order given."""
        return list(dict.fromkeys(task for _, _, task in self.scores))

    def frame(self) -> pd.DataFrame:
        """A row for every measurement, compared with the intact model on the same items.

        Columns: condition, neurons (how many are changed), seed, task, metric, items, fewshot, value, stderr (the
        harness's), unit (`share` where value and items are from 0 to 1, else empty: the metric's own); and, empty for
        intact, difference, low, high (95 % bootstrap), gained, lost (items), p (McNemar's exact test).

        The difference is that of the value, in its unit and with its sign: for a perplexity, whose items are
        log-likelihoods, it is positive where the text has become less likely. Where the value is neither the mean of
        its items nor the perplexity that they give, there is no interval.

        Raises:
            NeuroglotError: the intact model was measured on other items.
        """
        rows = []
        for (name, seed, task), score in self.scores.items():
            for metric, value in score.metrics.items():
                row: dict[str, Any] = {
                    "condition": name, "neurons": self.neurons[name], "seed": seed, "task": task, "metric": metric,
                    "items": len(score.items), "fewshot": score.fewshot, "value": value,
                    "stderr": score.stderr.get(metric), "unit": "share" if _is_share(score, metric) else "",
                }  # fmt: skip
                intact = self.scores.get((INTACT, None, task))
                if name != INTACT and intact is not None and all(metric in item.scores for item in score.items):
                    if [item.digest for item in intact.items] != [item.digest for item in score.items]:
                        raise NeuroglotError(f"{task} was measured on other items for {name}; delete one and repeat.")
                    row |= difference(intact, score, metric)
                rows.append(row)
        columns = ["condition", "neurons", "seed", "task", "metric", "items", "fewshot", "value", "stderr",
                   "unit", "difference", "low", "high", "gained", "lost", "p"]  # fmt: skip
        table = pd.DataFrame(rows, columns=columns)
        return table.astype({"seed": "Int64", "gained": "Int64", "lost": "Int64"})

    table = frame  # as earlier scripts call it

    def items(self) -> pd.DataFrame:
        """Every item's score: condition, seed, task, item, target, metric, score."""
        return pd.DataFrame(
            [
                (name, seed, task, item.id, item.target, metric, value)
                for (name, seed, task), score in self.scores.items()
                for item in score.items
                for metric, value in item.scores.items()
            ],
            columns=["condition", "seed", "task", "item", "target", "metric", "score"],
        ).astype({"seed": "Int64"})

    def summary(self) -> pd.DataFrame:
        """The papers' shape: a row for each condition and task, of the task's own metric; seeds as mean and std.

        Columns: condition, neurons, task, metric, items, seeds, value, std (of the sample, over seeds), stderr, unit,
        difference, low, high, p. Where there are seeds, value and difference are means, and only std says how sure.
        """
        full, rows = self.frame(), []
        own = {task: score.metric for (_, _, task), score in self.scores.items()}
        for (name, task), group in full.groupby(["condition", "task"], sort=False):
            group = group[group.metric == own[str(task)]]
            first, seeds = group.iloc[0], int(group.seed.notna().sum())
            one = seeds == 0
            rows.append(
                {
                    "condition": name, "neurons": first.neurons, "task": task, "metric": first.metric,
                    "items": first["items"], "seeds": seeds, "value": group.value.mean(),
                    "std": None if one else group.value.std(ddof=1),
                    "stderr": first.stderr if one else None, "unit": first.unit, "difference": group.difference.mean(),
                    **{column: first[column] if one else None for column in ("low", "high", "p")},
                }
            )  # fmt: skip
        return pd.DataFrame(rows)


def difference(intact: TaskScore, score: TaskScore, metric: str) -> dict[str, Any]:
    """How a metric differs from the intact model's, in its own unit and with its own sign; see `TaskTable.table`.

    The harness says what a task's value is and what its items' scores are, and not how the one comes from the others.
    So it is tried: the mean of the items, or the perplexity of their mean log-likelihood, must give the value of both.
    """
    before, after = (np.asarray(each.scores(metric), dtype=float) for each in (intact, score))
    values = intact.metrics[metric], score.metrics[metric]
    with np.errstate(over="ignore"):
        if np.allclose((before.mean(), after.mean()), values, rtol=1e-6, atol=1e-9):
            return dataclasses.asdict(paired(before.tolist(), after.tolist()))
        perplexities = np.exp(-before.mean()), np.exp(-after.mean())
        found = {"difference": values[1] - values[0]}
        if not np.allclose(perplexities, values, rtol=1e-6):
            return found
        draws = np.random.default_rng(0)
        drawn = [draws.integers(len(before), size=len(before)) for _ in range(RESAMPLES)]
        changes = [np.exp(-after[index].mean()) - np.exp(-before[index].mean()) for index in drawn]
    low, high = np.nanquantile(changes, (0.025, 0.975))
    return found | {"low": float(low), "high": float(high), "gained": int((after > before).sum()),
                    "lost": int((after < before).sum())}  # fmt: skip


def _is_share(score: TaskScore, metric: str) -> bool:
    """Whether a metric is a share, which tables show in per cent: neither its value nor an item is beyond 0 and 1."""
    items = [item.scores[metric] for item in score.items if metric in item.scores]
    return all(0 <= value <= 1 for value in [score.metrics[metric], *items])


@takes_numbers
def measure_tasks(
    model: Model,
    names: Sequence[str],
    conditions: Sequence[Condition] = (),
    *,
    fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
    data_dir: str | Path | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> TaskTable:
    """Score a model on tasks, intact and in each condition, on the same items.

    Args:
        model: left as it was.
        names: see `tasks`.
        conditions: the rows after the intact model's; each on the tasks that its `only` names.
        fewshot: see `tasks`.
        limit: see `tasks`.
        batch_size: see `tasks`.
        seed: see `tasks`.
        data_dir: see `tasks`.
        directory: keeps `TASK/CONDITION.json` as soon as it is measured, and what is there is not measured again.
        progress: show a bar.

    Raises:
        NeuroglotError: what `tasks` raises; conditions of the same name and seed; or `directory` holds results of other
            settings.
    """
    rows = [Condition(INTACT), *conditions]
    keys = [(row.name, row.seed) for row in rows]
    if len(set(keys)) < len(keys):
        twice = max(keys, key=keys.count)[0]
        raise NeuroglotError(f"Two conditions are called {twice}; give each another name or seed.")
    loaded = load_tasks(names, data_dir=data_dir)
    units = [(row, name) for name in loaded for row in rows if re.search(row.only, name)]
    base = {
        "model": model.fingerprint, "tokenizer": model.tokenizer_fingerprint, "fewshot": fewshot, "limit": limit,
        "seed": seed, "lm_eval": version("lm_eval"),
    }  # fmt: skip
    settings = {name: base | {"items": _digest(task, limit)} for name, task in loaded.items()}
    files = _Files(directory, settings)
    kept = {(row, name): files.kept(row, name) for row, name in units}  # a mismatch is said before anything is measured
    scores: dict[tuple[str, int | None, str], TaskScore] = {}
    with progress_bar("tasks", len(units), unit="measurements", shown=progress) as advance:
        for row, name in units:
            advance(0, f"{name}, {row.name}")
            score = kept[row, name]
            if score is None:
                with row.applied(model):
                    score = score_task(
                        model, loaded[name], fewshot=fewshot, limit=limit, batch_size=batch_size, seed=seed
                    )
                files.keep(row, name, score)
            scores[row.name, row.seed, name] = score
            advance(1, f"{name}, {row.name}")
    order: Callable[[tuple[str, int | None, str]], int] = lambda key: keys.index(key[:2])  # noqa: E731
    ordered = {key: scores[key] for key in sorted(scores, key=order)}
    return TaskTable(ordered, {row.name: row.neurons for row in rows})


@dataclass(frozen=True)
class _Files:
    """Where scores are kept, if anywhere.

    Attributes:
        directory: holds `TASK/CONDITION.json`.
        settings: task → what its scores depend on, beside what is done to the model.
    """

    directory: str | Path | None
    settings: dict[str, dict[str, Any]]

    def kept(self, row: Condition, task: str) -> TaskScore | None:
        """A score that is there; None if there is none. One of other settings, or damaged, is refused."""
        file = self._file(row, task)
        if file is None or not file.is_file():
            return None
        try:
            score, before = TaskScore.load(file)
        except NeuroglotError as error:
            warnings.warn(f"{error} It is measured again.", NeuroglotWarning, stacklevel=2)
            return None
        now = self.settings[task] | {"condition": row.digest}
        refuse_differing(f"{file} was measured", before, now, "repeat those settings, or delete it to measure again")
        return score

    def keep(self, row: Condition, task: str, score: TaskScore) -> None:
        """Keep a score as soon as it is measured."""
        if (file := self._file(row, task)) is not None:
            score.save(file, self.settings[task] | {"condition": row.digest})

    def _file(self, row: Condition, task: str) -> Path | None:
        slug = re.sub(r"[^\w.]+", "-", row.name).strip("-")
        name = f"{slug}.json" if row.seed is None else f"{slug}.{row.seed}.json"
        return None if self.directory is None else Path(self.directory) / task / name


def _digest(task: Any, limit: int | None) -> str:
    """Of the items that will be scored."""
    sha = hashlib.sha256()
    for item in islice(task.eval_docs, limit):
        sha.update(json.dumps(item, ensure_ascii=False, default=str, sort_keys=True).encode())
    return sha.hexdigest()[:32]
