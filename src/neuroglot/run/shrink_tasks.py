"""Task scores of a model before and after it was shrunk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from neuroglot.models.model import Model
from neuroglot.stats import mcnemar

__all__ = ["TaskPair", "built_in_tasks", "compared", "opened_tasks", "scored"]


@dataclass(frozen=True)
class TaskPair:
    """One task.

    Attributes:
        metric: what the scores are, as the harness calls it.
        items: how many there are.
        intact: score of the intact model.
        shrunk: of the other.
        p: of McNemar's exact test on the items; None where scores are not 0 or 1.
    """

    metric: str
    items: int
    intact: float
    shrunk: float
    p: float | None


def built_in_tasks(language: str) -> list[str]:
    """The tasks that come with Neuroglot in a language, for small models; none without lm-eval.

    They have 24 items each, which show that the model still answers, and are no benchmark.
    """
    if find_spec("lm_eval") is None:
        return []
    from neuroglot.evaluate.benchmarks.data import SMOKE

    names = [f"smoke_{name}_{language}" for name in ("xcsqa_cloze", "xstorycloze_english")]
    return [name for name in names if (SMOKE / f"{name}.yaml").is_file()]


def opened_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Tasks of the harness by their names; see `evaluate.tasks` for what is refused."""
    if not names:
        return {}
    from neuroglot.evaluate.benchmarks.harness import load_tasks

    return load_tasks(names)


def scored(model: Model, opened: Mapping[str, Any]) -> dict[str, Any]:
    """What a model scores on each task."""
    if not opened:
        return {}
    from neuroglot.evaluate.benchmarks.harness import score_task

    return {name: score_task(model, task) for name, task in opened.items()}


def compared(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, TaskPair]:
    """Two models' scores side by side."""
    found = {}
    for name, intact in before.items():
        shrunk, metric = after[name], intact.metric
        both = list(zip(intact.scores(metric), shrunk.scores(metric), strict=True))
        binary = all(score in (0.0, 1.0) for pair in both for score in pair)
        p = mcnemar(sum(a < b for a, b in both), sum(a > b for a, b in both)) if binary else None
        found[name] = TaskPair(metric, len(both), intact.metrics[metric], shrunk.metrics[metric], p)
    return found
