"""The pass of a run: what is missing of its recording."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.run.directory import Run
from neuroglot.run.settings import ExpertSettings, ModelSettings, RunRecordSettings, TextSettings

if TYPE_CHECKING:  # they need torch, and what is wrong with the text or a run should be said before
    from neuroglot.artifacts.partition import Partition
    from neuroglot.artifacts.recording import Recording
    from neuroglot.models.model import Model
    from neuroglot.recording.engines.local import Engine
    from neuroglot.recording.engines.ray_cluster import RayEngine

__all__ = [
    "begin_run",
    "check_record",
    "languages_to_record",
    "make_partition",
    "merge_runs",
    "one_pass",
    "record_run",
]


def languages_to_record(text: TextSettings) -> Corpus:
    """The text to record, of two languages at least."""
    to_record, _ = text.load()
    if len(to_record.languages) < 2:
        raise NeuroglotError(
            f"{text.source} gives only {to_record.languages[0]}; every method compares languages, so give at least two."
        )
    return to_record


def check_record(
    folder: Path, model_settings: ModelSettings, text: TextSettings, recording: RunRecordSettings
) -> tuple[Run, Corpus]:
    """The run and the text to record, as far as they can be refused before weights are opened. Nothing is written.

    Raises:
        NeuroglotError: see `begin_run`.
    """
    model_settings.check_source()
    run = Run.prepare(folder, model_settings, text, recording, extend=True)
    to_record = languages_to_record(text)
    reader = model_settings.reader(trust_remote_code=model_settings.trust_remote_code)
    from neuroglot.tokens.packing import check_fills

    check_fills(reader, to_record, recording.block, recording.tokens)
    return run, to_record


def begin_run(
    folder: Path,
    model_settings: ModelSettings,
    text: TextSettings,
    recording: RunRecordSettings,
    *,
    part: tuple[int, int] = (1, 1),
    engine: "RayEngine | None" = None,
    workers: int = 1,
    readers: int | None = None,
) -> "tuple[Run, Model, Recording]":
    """Make or reopen the run, and record what is missing. A finished run may be asked for more tokens, and is extended.

    Raises:
        NeuroglotError: `folder` holds something else or other settings, the text has one language only, which is said
            before the model is opened; or, which is said before its weights are, it cannot read blocks so long, has no
            neurons, or a language is too short for one block.
    """
    run, to_record = check_record(folder, model_settings, text, recording)
    local = run.as_recorded(model_settings)
    if engine is not None:  # this process needs the model for its tokenizer and fingerprint, not to run it
        local = _on_workers(local, gpus=bool(engine.gpus))
        engine = replace(engine, opening={**(engine.opening or local.model_dump()), "dtype": local.dtype})
        local = local.model_copy(update={"device": "cpu", "device_map": None})
    model = local.load(trust_remote_code=local.trust_remote_code, workers=workers)
    if recording.experts is not None:
        model.check_dense("its neurons are in experts already", "leave --experts out, and see neuroglot experts")
    run = run.begin()
    if run.manifest.record.tokens < recording.tokens:
        from neuroglot.run.extension import extend_run

        _check_extended(run, model)
        if dropped := extend_run(run, recording.tokens):
            warnings.warn(
                f"{folder} is recorded on more text, so what was found in less of it is dropped: {', '.join(dropped)}.",
                NeuroglotWarning,
                stacklevel=2,
            )
    return run, model, record_run(run, model, to_record, part=part, engine=engine, readers=readers)


def _check_extended(run: Run, model: "Model") -> None:
    """Refuse more tokens of another model before what was found in fewer is dropped.

    Raises:
        NeuroglotError: its weights or its tokenizer are not those of the recording.
    """
    recorded = run.recording
    run.check(model, recorded)
    if recorded.provenance is not None and recorded.provenance.tokenizer != model.tokenizer_fingerprint:
        raise NeuroglotError(
            f"The tokenizer of {model.name} is not the one that this run recorded with; record again into another "
            "--out."
        )


def _on_workers(model: ModelSettings, gpus: bool) -> ModelSettings:
    """The model with the precision said in which workers open it, which is that of the recording."""
    if model.dtype != "auto" or not gpus:
        return model
    from neuroglot.models.loading import auto_dtype

    own = auto_dtype(model.source, revision=model.revision, trust_remote_code=model.trust_remote_code)
    return model.model_copy(update={"dtype": "bfloat16" if own == "auto" else own})


def merge_runs(runs: Sequence[str | Path], out: str | Path | None = None) -> "tuple[Run, Recording]":
    """Add up the parts that the runs hold in `out`, by default the first of them.

    Raises:
        NeuroglotError: the runs differ in model, text or setting, or a shard is missing; `out` is something else.
    """
    parts = [Run.open(path) for path in runs]
    target = Path(out) if out is not None else parts[0].path
    first = parts[0].manifest
    if not (target / "run.json").is_file():
        run = Run.create(target, first.model, first.text, first.record)
        with run.changing() as manifest:
            manifest.experts = first.experts
    from neuroglot.recording.shard_store import merge

    directories = dict.fromkeys(each.path.resolve() / "recording" for each in parts)
    run = Run.open(target)
    return run, merge(list(directories), run.path / "recording")


def record_run(
    run: Run,
    model: "Model",
    corpus: Corpus,
    *,
    part: tuple[int, int] = (1, 1),
    engine: "Engine | None" = None,
    readers: int | None = None,
    progress: bool = True,
) -> "Recording":
    """Make the recording or a part of it, or go on with it, or read it if it is finished; see `record`."""
    experts = run.manifest.record.experts
    return one_pass(
        run,
        model,
        corpus,
        directory=run.path / "recording",
        partition=None if experts is None else make_partition(run, model, experts),
        part=part,
        engine=engine,
        readers=readers,
        progress=progress,
    )


def one_pass(run: Run, model: "Model", corpus: Corpus, **settings: Any) -> "Recording":
    """One pass over the run's text, as its settings say and these besides; see `record`."""
    from neuroglot.recording.recorder import record

    return record(model, corpus, **run.manifest.record.arguments() | settings)


def make_partition(run: Run, model: "Model", settings: ExpertSettings) -> "Partition":
    """The partition of the run, made if it is not there."""
    from neuroglot.experts.moefication import partition

    path = run.path / "experts" / "partition.safetensors"
    if not path.is_file():
        made = partition(model, settings.experts, kind=settings.kind, seed=settings.seed, progress=True)
        made.save(path)
    with run.changing() as manifest:
        manifest.experts = settings
    return run.partition
