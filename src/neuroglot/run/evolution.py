"""Alignment over training or over scale: the same measures on a list of checkpoints (Zeng et al. 2025, §4.4-4.6)."""

import gc
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, Field

from neuroglot.alignment import scores
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning, first_line
from neuroglot.evaluate.likelihood.perplexity import check_held_out, perplexity
from neuroglot.identify.key_regions import check_threshold, key_regions
from neuroglot.models.loading import load_model, load_reader
from neuroglot.models.model import Model
from neuroglot.models.sources import Dtype
from neuroglot.recording.record_samples import check_samples, record_samples
from neuroglot.run.settings import ModelSettings
from neuroglot.storage.atomic import read_json
from neuroglot.storage.names import whole_number
from neuroglot.storage.results import refuse_differing, save_json

__all__ = ["Checkpoint", "Evolution", "EvolveSettings", "evolve"]

FAILURES = (NeuroglotError, OSError, torch.OutOfMemoryError, MemoryError)
"""What can be the matter with a checkpoint: what is wrong with it in a sentence, files that cannot be read, and too
little memory. Anything else is a fault of this program or of a task's, and ends the work."""


class Checkpoint(BaseModel, frozen=True):
    """A model to measure: a directory, or a hub id and a revision."""

    source: str
    """As `load_model` takes it."""
    revision: str | None = None
    """The branch, tag or commit of a hub id."""

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """`source` or `source@revision`; a path that exists is a source, whatever its name."""
        source, at, revision = text.rpartition("@")
        if os.path.exists(text) or not at or not source:
            return cls(source=text)
        return cls(source=source, revision=revision)

    @property
    def name(self) -> str:
        """What figures call it: the revision, or else the last part of the source."""
        return self.revision or Path(self.source).name

    @property
    def step(self) -> int | None:
        """The last number in its name: `step-00400` is 400."""
        numbers = re.findall(r"[0-9]+", self.name)
        return whole_number(numbers[-1]) if numbers else None

    @property
    def file(self) -> str:
        """A file name that no other checkpoint has."""
        digest = hashlib.sha256(f"{self.source}@{self.revision}".encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name)}-{digest}.json"


class EvolveSettings(BaseModel):
    """What is measured of each checkpoint, and how."""

    samples: int | None = Field(100, ge=2)
    """At most so many samples of the parallel corpus."""
    max_tokens: int | None = Field(200, ge=1)
    """Cut a sample after so many tokens."""
    threshold: float = Field(2.0, ge=0)
    """Of the key regions, in standard deviations."""
    draws: int = Field(200, ge=0)
    """Bootstrap draws for intervals."""
    tokens: int = Field(20_000, ge=1)
    """Measure perplexity on at most so many tokens of each language."""
    block: int | None = Field(None, ge=2)
    """Tokens a block of it."""
    sizes: bool = False
    """Whether the checkpoints may be models of different shapes; else they are one model in training."""
    dtype: Dtype = "auto"
    """Of the weights; see `load_model`. `auto` is the first checkpoint's for all of one model in training, and each
    one's own for models of several sizes."""
    device: str | None = None
    """Where the models run."""


@dataclass
class Evolution:
    """What `evolve` measured.

    Attributes:
        table: a row a checkpoint, in the order given: checkpoint, step, parameters, layers, neurons, dtype; lrds, sads
            and sklr with `_low` and `_high`; sklr_share (of all neurons), perplexity (geometric mean over languages),
            perplexity_LANGUAGE, task_NAME, and error (why it failed, or None).
        regions: checkpoint → `NeuronSet.counts()` of its key regions.
        layers: checkpoint → `alignment.by_layer`.
    """

    table: pd.DataFrame
    regions: dict[str, pd.DataFrame]
    layers: dict[str, pd.DataFrame]

    @property
    def tasks(self) -> list[str]:
        """The columns of the tasks that were scored: `task_NAME`."""
        return [str(name) for name in self.table if str(name).startswith("task_")]


def evolve(
    checkpoints: Iterable[Checkpoint | str],
    corpus: Corpus,
    out: str | Path,
    *,
    held_out: Corpus | None = None,
    settings: EvolveSettings | None = None,
    tasks: Mapping[str, Callable[[Model], float]] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Evolution:
    """Measure every checkpoint on the same samples. Finished ones are kept, so a stopped run goes on where it was.

    A checkpoint that cannot be opened or measured (see `FAILURES`) is reported in the table's `error` and the others go
    on; it is tried again the next time.

    Args:
        checkpoints: directories, hub ids, `id@revision`, or `Checkpoint`s, in the order of training or of size.
        corpus: parallel; its samples are recorded.
        out: keeps `checkpoints/*.json`, one for each that is finished.
        held_out: measure perplexity on this text; not measured without.
        settings: what is measured, and how.
        tasks: name → a score of a model, such as the accuracy on a cross-lingual task.
        say: called with a sentence as each checkpoint begins and ends.

    Raises:
        NeuroglotError: two checkpoints are the same, `out` holds checkpoints measured otherwise, the corpus is not
            parallel, or every checkpoint failed.
    """
    settings = settings or EvolveSettings()
    listed = [Checkpoint.parse(each) if isinstance(each, str) else each for each in checkpoints]
    if not listed or len(set(listed)) < len(listed):
        raise NeuroglotError("evolve needs a list of different checkpoints; one is there twice, or there is none.")
    settings = settings.model_copy(update={"dtype": _one_precision(listed, settings)})
    asked = _asked(corpus, held_out, settings, list(tasks or {}))
    paths = [Path(out) / "checkpoints" / checkpoint.file for checkpoint in listed]
    results = [_finished(path, asked) for path in paths]

    def failed(checkpoint: Checkpoint, error: BaseException) -> dict[str, Any]:
        reason = first_line(error)
        say(f"{checkpoint.name} failed: {reason}")
        return {"row": {"error": reason}, "regions": None, "layers": None}

    for index, checkpoint in enumerate(listed):  # of all of them, before the first is measured
        if results[index] is None:
            try:
                _check(checkpoint, corpus, held_out, settings)
            except FAILURES as error:
                results[index] = failed(checkpoint, error)
    done: list[dict[str, Any]] = []
    for index, (checkpoint, path, result) in enumerate(zip(listed, paths, results, strict=True)):
        if result is None:
            say(f"{index + 1} of {len(listed)}: {checkpoint.name}")
            try:
                result = _measure(checkpoint, corpus, held_out, settings, tasks or {}, done)
            except FAILURES as error:  # with one of them, the others go on
                result = failed(checkpoint, error)
            else:
                save_json(path, {"asked": asked, **result})  # a full disk is no fault of the checkpoint
            gc.collect()
        result["row"] = {
            "checkpoint": checkpoint.name,
            "step": index if checkpoint.step is None else checkpoint.step,
            **result["row"],
        }
        done.append(result)
    _note_precisions([result["row"] for result in done])
    if all(result["row"]["error"] for result in done):
        raise NeuroglotError(f"Every checkpoint failed; the first since: {done[0]['row']['error']}")
    return _gathered(done)


def _one_precision(checkpoints: Sequence[Checkpoint], settings: EvolveSettings) -> Dtype:
    """The precision of all checkpoints of one model in training: where it is not said, that of the first.

    A checkpoint that was written in another would otherwise differ by more than its training.
    """
    if settings.sizes:
        return settings.dtype
    for first in checkpoints:
        how = ModelSettings(source=first.source, revision=first.revision, dtype=settings.dtype, device=settings.device)
        with suppress(*FAILURES):  # it will be said of this checkpoint that it cannot be opened
            return how.of_variant(first.source).dtype
    return settings.dtype


def _note_precisions(rows: Sequence[Mapping[str, Any]]) -> None:
    found = {row["dtype"]: row["checkpoint"] for row in reversed(rows) if row.get("dtype")}
    if len(found) > 1:
        said = ", ".join(f"{name} in {dtype}" for dtype, name in reversed(found.items()))
        warnings.warn(
            f"Each model is read in its own precision ({said} …), so they differ by rounding, too; a dtype opens all "
            "alike (--dtype).",
            NeuroglotWarning,
            stacklevel=3,
        )


def _gathered(done: Sequence[Mapping[str, Any]]) -> Evolution:
    table = pd.DataFrame([result["row"] for result in done])
    table["error"] = table.pop("error")  # last

    def frames(part: str) -> dict[str, pd.DataFrame]:
        return {
            result["row"]["checkpoint"]: pd.DataFrame(result[part]).rename_axis("layer").rename(index=int)
            for result in done
            if result[part]
        }

    return Evolution(table, frames("regions"), frames("layers"))


def _asked(corpus: Corpus, held_out: Corpus | None, settings: EvolveSettings, tasks: list[str]) -> dict[str, Any]:
    """All that decides a checkpoint's numbers beside the checkpoint."""
    digest = hashlib.sha256()
    for index, (key, texts) in enumerate(corpus.samples()):
        if index == settings.samples:
            break
        digest.update(json.dumps([key, texts], ensure_ascii=False).encode())
    measured = settings.model_dump(exclude={"sizes", "device"})
    return {
        **measured,
        "text": digest.hexdigest()[:32],
        "held out": None if held_out is None else [held_out.name, *held_out.languages],
        "tasks": tasks,
    }


def _finished(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured of a checkpoint earlier; None if nothing was, or its file is damaged."""
    found = read_json(path)
    before = None if found is None else found.pop("asked", None)
    if found is None or not isinstance(before, dict):
        return None
    refuse_differing(f"{path} was measured", before, asked, "choose another --out, or delete it")
    return found


def _check(checkpoint: Checkpoint, corpus: Corpus, held_out: Corpus | None, settings: EvolveSettings) -> None:
    """What tokenizer and config of a checkpoint say of the text, before weights are opened.

    Raises:
        NeuroglotError: a sample is empty or too long, a language is too short, or the checkpoint cannot be opened.
    """
    reader = load_reader(checkpoint.source, revision=checkpoint.revision)
    check_samples(reader, corpus, samples=settings.samples, max_tokens=settings.max_tokens, missing="drop")
    if held_out is not None:
        check_held_out(reader, held_out, tokens=settings.tokens, block=settings.block)


def _measure(
    checkpoint: Checkpoint,
    corpus: Corpus,
    held_out: Corpus | None,
    settings: EvolveSettings,
    tasks: Mapping[str, Callable[[Model], float]],
    before: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    model = load_model(checkpoint.source, revision=checkpoint.revision, dtype=settings.dtype, device=settings.device)
    kind = model.text_config.model_type
    if not settings.sizes:
        _check_same_model(model, checkpoint, kind, before)
    samples = record_samples(
        model, corpus, samples=settings.samples, max_tokens=settings.max_tokens, missing="drop", states=model.one_stream
    )
    reachable = True
    try:
        check_threshold(samples, settings.threshold)
    except NeuroglotError as error:
        reachable = False
        warnings.warn(f"SKLR is not measured. {error}", NeuroglotWarning, stacklevel=3)
    summary = scores.summary(samples, threshold=settings.threshold if reachable else None, draws=settings.draws)
    row: dict[str, Any] = {
        "architecture": kind,
        "parameters": sum(weight.numel() for weight in model.network.parameters()),
        "layers": model.layers,
        "neurons": _widths(model),
        "dtype": model.dtype,
    }
    for name, values in summary.iterrows():
        row |= {str(name): values["value"], f"{name}_low": values["low"], f"{name}_high": values["high"]}
    regions = None
    if reachable:
        regions = key_regions(samples, threshold=settings.threshold).counts()
        row["sklr_share"] = row["sklr"] / sum(model.widths)
    if held_out is not None:
        by_language = perplexity(model, held_out, tokens=settings.tokens, block=settings.block)
        row["perplexity"] = math.exp(sum(map(math.log, by_language.values())) / len(by_language))
        row |= {f"perplexity_{tag}": value for tag, value in by_language.items()}
    row |= {f"task_{name}": float(score(model)) for name, score in tasks.items()}
    layers = scores.by_layer(samples, threshold=settings.threshold if reachable else None, draws=settings.draws)
    return {
        "row": {**row, "error": None},
        "regions": None if regions is None else regions.to_dict(),
        "layers": layers.to_dict(),
    }


def _widths(model: Model) -> int | str:
    """Neurons a layer, as the table has them: a number, or of uneven layers one for each."""
    return model.neurons if model.uneven is None else " ".join(map(str, model.widths))


def _check_same_model(model: Model, checkpoint: Checkpoint, kind: str, before: Sequence[Mapping[str, Any]]) -> None:
    first = next((result["row"] for result in before if not result["row"]["error"]), None)
    if first is None:
        return
    then, now = (first["architecture"], first["layers"], first["neurons"]), (kind, model.layers, _widths(model))
    if then != now:
        raise NeuroglotError(
            f"{checkpoint.name} is a {now[0]} of {now[1]} × {now[2]} neurons, but {first['checkpoint']} is a {then[0]} "
            f"of {then[1]} × {then[2]}: not one model in training; compare models of several sizes with sizes."
        )
