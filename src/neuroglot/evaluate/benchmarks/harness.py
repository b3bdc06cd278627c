"""Benchmarks through EleutherAI's lm-evaluation-harness, on our loaded model as it is, with interventions in force."""

import copy
import difflib
import functools
import logging
import os
import random
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import torch

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.evaluate.benchmarks.harness_model import cuts_are_said, harness, wrap
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import load_json, readable, save_json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Item", "TaskScore", "load_tasks", "score_task", "tasks"]

DEFINITIONS = Path(__file__).parent / "tasks"
LOCAL = {"juletxara/mgsm": "mgsm", "juletxara/xstory_cloze": "xstorycloze"}
"""The datasets of the harness's own tasks that `data_dir` stands in for, too."""
HUB_WAIT = 5.0
"""Seconds to wait for the hub before it counts as out of reach."""


@dataclass(frozen=True)
class Item:
    """One item of a task.

    Attributes:
        id: its number in the task.
        digest: of its content, so that the same items are compared.
        target: the right answer.
        responses: what the harness got from the model: (log-likelihood, greedy) of each option, or what was written.
        scores: metric → score.
    """

    id: int
    digest: str
    target: str
    responses: list[Any]
    scores: dict[str, float]


@dataclass(frozen=True)
class TaskScore:
    """What a model scored on one task.

    Attributes:
        task: its name in the harness.
        version: the version of its definition.
        fewshot: how many examples stood before each question.
        metrics: metric → value. A metric is named as the harness does, `acc,none`: metric and filter of the answer.
        stderr: metric → standard error, where the harness has one.
        items: every item with its own scores.
    """

    task: str
    version: str
    fewshot: int
    metrics: dict[str, float]
    stderr: dict[str, float]
    items: list[Item]

    def frame(self) -> "pd.DataFrame":
        """A row a metric: task, metric, value, and stderr, NaN where the harness has none."""
        import pandas as pd

        rows = [
            {"task": self.task, "metric": name, "value": value, "stderr": self.stderr.get(name, float("nan"))}
            for name, value in self.metrics.items()
        ]
        return pd.DataFrame(rows, columns=["task", "metric", "value", "stderr"])

    @property
    def metric(self) -> str:
        """The metric that stands for the task in a table: its first, with its last filter."""
        first = next(iter(self.metrics)).split(",")[0]
        return [name for name in self.metrics if name.split(",")[0] == first][-1]

    def scores(self, metric: str) -> list[float]:
        """Each item's score, in order."""
        return [item.scores[metric] for item in self.items]

    def save(self, path: str | Path, settings: dict[str, Any]) -> Path:
        """Write it as JSON with the settings that it was measured with."""
        return save_json(path, {"settings": settings} | asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "tuple[TaskScore, dict[str, Any]]":
        """Read back what `save` wrote.

        Raises:
            NeuroglotError: the file is missing or damaged.
        """
        with readable(path, "delete it, and the task is measured again"):
            held = load_json(path)
            settings = held.pop("settings")
            held["items"] = [Item(**item) for item in held["items"]]
            return cls(**held), settings


@takes_numbers
def tasks(
    model: Model,
    names: Sequence[str],
    *,
    fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
    data_dir: str | Path | None = None,
    progress: bool = True,
) -> dict[str, TaskScore]:
    """Score a model on tasks of the lm-evaluation-harness.

    The network that is loaded is the one that runs: no second copy of the weights, and interventions in force act.
    BOS stands where it stands everywhere (by the tokenizer's own rule, unless the model was opened with another), text
    that spells a special token is text, and of the checkpoint's generation_config only where answers end counts.

    Args:
        model: to score, as it is now.
        names: tasks, groups, tags or patterns (`smoke_xcsqa_*`) of the harness and of ours; groups and tags mean their
            tasks.
        fewshot: examples before each question; by default what the task says.
        limit: only so many items of each task.
        batch_size: requests a forward pass.
        seed: of the choice of few-shot examples, and of anything random in a task.
        data_dir: local JSON lines instead of the hub for X-CSQA, XStoryCloze and MGSM; see
            `neuroglot.evaluate.benchmarks.data`.
        progress: show a bar.

    Returns:
        Task → its score, with every item's.

    Raises:
        NeuroglotError: a task is unknown, its data is malformed or out of reach, or lm-eval is not installed.

    Warns:
        NeuroglotWarning: requests are longer than the model reads, and the harness leaves their beginnings out.
    """
    loaded = load_tasks(names, data_dir=data_dir)
    results = {}
    with progress_bar("tasks", len(loaded), unit="tasks", shown=progress) as advance:
        for name, task in loaded.items():
            advance(0, name)
            results[name] = score_task(model, task, fewshot=fewshot, limit=limit, batch_size=batch_size, seed=seed)
            advance(1, name)
    return results


def load_tasks(names: Sequence[str], *, data_dir: str | Path | None = None) -> dict[str, Any]:
    """Name → the harness's task, with its data. See `tasks`."""
    harness("lm_eval")
    manager, chosen = _find(list(names), data_dir)
    opened = {}
    with _quiet(), _hub() as reachable:
        for name, config in chosen.items():
            try:
                opened[name] = manager.load([config])["tasks"][name]
            except NeuroglotError:
                raise
            except ImportError as error:
                raise NeuroglotError(f"The task {name} needs a package that is not installed ({error}).") from error
            except Exception as error:  # the hub client, the network and each task raise their own
                reason = first_line(error)
                why = reason if reachable else f"the Hugging Face hub is out of reach, and no copy is cached: {reason}"
                local = _local(manager.task_index[name].cfg) is not None
                setting = "give local JSON lines with --data-dir" if local else "connect to the hub once to fetch it"
                raise NeuroglotError(f"The data of {name} cannot be opened ({why}); {setting}.") from error
    return opened


def score_task(
    model: Model,
    task: Any,
    *,
    fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 1234,
) -> TaskScore:
    """Score a model on one task of `load_tasks`. See `tasks`."""
    evaluator = harness("lm_eval.evaluator")
    with _quiet():
        # what simple_evaluate does before it evaluates, without its minute of asking the system about itself
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        own = task.get_config("num_fewshot")
        if fewshot is not None and own != 0:  # 0 in a definition means that the task has no examples
            task.set_config(key="num_fewshot", value=fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)
        name = task.config.task
        shots = int(task.get_config("num_fewshot") or 0)
        wrapped = wrap(model, batch_size)
        try:
            with cuts_are_said(wrapped, name):
                result = evaluator.evaluate(
                    wrapped, {"tasks": {name: task}, "groups": {}}, limit=limit, log_samples=True
                )
        except AssertionError as error:
            reason = f" ({str(error).strip()})" if str(error).strip() else ""
            raise NeuroglotError(
                f"{name} does not fit {model.name}{reason}: an answer is empty, or the model reads too few tokens "
                f"({model.context}); give fewer examples, or leave the task out."
            ) from error
    values = result["results"][name]
    named = {key: value for key, value in values.items() if "," in key and isinstance(value, int | float)}
    metrics = {key: float(value) for key, value in named.items() if "_stderr," not in key}
    errors = {key.replace("_stderr,", ","): float(value) for key, value in named.items() if "_stderr," in key}
    return TaskScore(
        task=name,
        version=str(result.get("versions", {}).get(name, "")),
        fewshot=shots,
        metrics=metrics,
        stderr=errors,
        items=_items(result["samples"][name], metrics),
    )


def _items(samples: list[dict[str, Any]], metrics: dict[str, float]) -> list[Item]:
    """One item each, though the harness lists an item once for every filter."""
    items: dict[int, Item] = {}
    for sample in samples:
        key = int(sample["doc_id"])
        if key not in items:
            items[key] = Item(key, sample["doc_hash"], str(sample["target"]), sample["filtered_resps"], {})
        for metric in sample["metrics"]:
            named = f"{metric},{sample['filter']}"
            if named in metrics and isinstance(sample[metric], int | float | np.number):
                items[key].scores[named] = float(sample[metric])
    return [items[key] for key in sorted(items)]


def _find(names: list[str], data_dir: str | Path | None) -> tuple[Any, dict[str, Any]]:
    """The harness's index, and the configuration of every task meant by the names."""
    if not names:
        raise NeuroglotError("No task was named; give at least one, such as smoke_xcsqa_fr or xnli_fr.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise NeuroglotError(f"There is no directory {data_dir}; give --data-dir the one that holds the JSON lines.")
    manager = _index(False)
    if not all(manager.match_tasks([name]) for name in names):
        manager = _index(True)
    chosen: dict[str, Any] = {}
    for name in names:
        found = manager.match_tasks([name])
        if not found:
            near = difflib.get_close_matches(name, manager.all_tasks, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists the harness's."
            raise NeuroglotError(f"There is no task {name}; {hint}")
        for task in _leaves(manager, found):
            chosen[task] = _configured(manager, task, data_dir)
    return manager, chosen


def _leaves(manager: Any, names: Sequence[Any]) -> Iterator[str]:
    """The tasks of groups and tags."""
    for name in names:
        if isinstance(name, dict):
            name = name.get("task") if isinstance(name.get("task"), str) else name.get("group")
        entry = manager.task_index.get(name)
        if entry is None:
            continue
        if name in manager.all_tags:
            yield from _leaves(manager, sorted(entry.tags))
        elif name in manager.all_groups:
            members = entry.cfg.get("task", [])
            yield from _leaves(manager, [members] if isinstance(members, str) else members)
        else:
            yield str(name)


@functools.cache
def _index(everything: bool) -> Any:
    """Our tasks; with `everything` also the harness's, whose definitions take some seconds to read."""
    manager = harness("lm_eval.tasks").TaskManager
    with _quiet():
        return manager(include_path=str(DEFINITIONS), include_defaults=everything)


def _local(config: dict[str, Any]) -> str | None:
    """The function of `benchmarks/data.py` that reads a task's data, if local files can stand in for the hub."""
    own = str(config.get("custom_dataset", "")).partition("neuroglot.evaluate.benchmarks.data.")[2]
    return LOCAL.get(config.get("dataset_path", "")) or (own if own and not own.startswith("smoke_") else None)


def _configured(manager: Any, name: str, data_dir: str | Path | None) -> Any:
    """A task's name; or, where it reads local data now, its configuration changed so."""
    config = manager.task_index[name].cfg
    function = _local(config)
    if data_dir is None or function is None:
        return name
    from neuroglot.evaluate.benchmarks import data

    config = copy.deepcopy(config)
    dataset = "xstorycloze" if function.startswith("xstorycloze") else function
    language = config["dataset_name"] if "dataset_name" in config else config["dataset_kwargs"]["language"]
    examples = (Path(data_dir) / dataset / language / "train.jsonl").is_file()
    return config | {
        "custom_dataset": getattr(data, function),
        "dataset_kwargs": {"language": language, "data_dir": str(data_dir)},
        "training_split": config.get("training_split") if examples else None,
    }


@contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """A value of a module that reads it wherever it is used, inside the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _hub() -> Iterator[bool]:
    """Whether the hub answers. If it does not, only what is cached is read, at once, without waiting and retrying."""
    import datasets
    from huggingface_hub import constants

    reachable = not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)
    with ExitStack() as stack:
        if not reachable:
            stack.enter_context(_replaced(constants, "HF_HUB_OFFLINE", True))
            stack.enter_context(_replaced(datasets.config, "HF_HUB_OFFLINE", True))
        yield reachable


def _answers(url: str) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # whatever is behind a proxy is for the hub's client to find out
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=HUB_WAIT).close()
    except OSError:
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log lines and bars: it warns of what we mean, such as giving it a loaded model."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    bar = harness("tqdm").tqdm

    def silent(*args: Any, **options: Any) -> Any:
        return bar(*args, **options | {"disable": True})

    with ExitStack() as stack:
        stack.callback(logger.setLevel, level)
        logger.setLevel(logging.ERROR)
        for module in ("lm_eval.api.task", "lm_eval.models.huggingface", "lm_eval.api.model"):
            stack.enter_context(_replaced(harness(module), "tqdm", silent))
        yield
