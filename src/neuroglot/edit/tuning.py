"""Tune a model on one language: on instructions, as parameter variation compares, or on plain text.

All weights are trained, an adapter, or only some neurons' (`only`). With a teacher what is learnt is its distribution,
too (Hinton et al. 2015, §2): so a pruned model is healed.
"""

import hashlib
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import IGNORED, Part, TuneSettings, trained
from neuroglot.errors import NeuroglotError, NeuroglotWarning, require
from neuroglot.models.model import Model
from neuroglot.progress import without_bars
from neuroglot.storage.atomic import atomic_path, read_json, writing
from neuroglot.storage.locks import clear, drop_workplace, workplace
from neuroglot.storage.results import refuse_differing, save_json

__all__ = ["tune"]


def tune(
    model: Model,
    examples: Sequence[Pair] | Int[Tensor, "blocks block"],
    path: str | Path,
    settings: TuneSettings | None = None,
    *,
    language: str = "",
    only: Part | None = None,
    teacher: Model | None = None,
    progress: bool = True,
) -> Path:
    """Tune a model and write it as a checkpoint, or an adapter. The model itself is changed.

    A pair's text is the instruction, a blank line, and the answer, with nothing around them: a template in English
    would put English into the tuning of every language. Only the answer's tokens, and the end of the text, have a loss.
    In plain text every token has but the first of a block.

    On a GPU float32 weights are multiplied in bfloat16 and kept in float32. Weights of bfloat16 change only where a
    step is more than a 256th of them; open a model in float32 to tune it.

    Args:
        model: in memory; open it again for another language.
        examples: instructions, or packed blocks of text.
        path: a new directory. If it holds what the same settings and examples made, nothing is done; if work on it was
            interrupted, it goes on from the last state kept.
        settings: how.
        language: said in the progress bar and kept beside the weights.
        only: train these neurons: their rows of gate and up projection and their columns of the down-projection; or
            the `"routers"` of a mixture of experts. No other weight moves, to the bit.
        teacher: a model with the same tokens, whose distribution is learnt, too.
        progress: show a bar.

    Raises:
        NeuroglotError: there is nothing to learn from, none's answer is within `max_tokens`, `only` has no neuron or
            router, or goes with an adapter, the teacher has other tokens, peft is missing, the directory holds
            something else, or the loss is not a number.
    """
    settings = settings or TuneSettings()
    path = Path(path)
    if not len(examples):
        raise NeuroglotError("There are no instructions and no text to tune on; give some.")
    if settings.adapter is not None:
        require("peft", "tune", needed_by="An adapter")
    _check_parts(model, settings, only, teacher)
    if settings.adapter is None and model.network.dtype in (torch.bfloat16, torch.float16):
        warnings.warn(
            f"{model.name} is tuned in {model.dtype}, where small steps are "
            "rounded away; open it in float32 (--dtype float32).",
            NeuroglotWarning,
            stacklevel=2,
        )
    about: dict[str, Any] = {
        "base": model.name,
        "fingerprint": model.fingerprint,
        "language": language,
        "pairs": len(examples),
        "settings": settings.model_dump(),
        "only": hashlib.sha256(only.cpu().numpy().tobytes()).hexdigest()[:32] if isinstance(only, Tensor) else only,
        "teacher": None if teacher is None else teacher.fingerprint,
    }
    if path.exists():
        _check_made(path, about)
        drop_workplace(path, "tuning")
        return path
    rows = _rows(model, examples, settings, language)
    with workplace(path, "tuning") as work:
        if path.exists():  # another process made it meanwhile
            _check_made(path, about)
            return path
        started = time.perf_counter()
        _same_work(work, about)
        with writing(work), without_bars():  # a full disk ends the saving of an epoch
            tuned, loss = trained(model, rows, settings, work, language, only, teacher, progress)
        about["loss"], about["seconds"] = loss, time.perf_counter() - started
        model.weights_changed()
        with atomic_path(path) as draft, without_bars():
            tuned.save_pretrained(draft)
            if settings.adapter is None:
                model.tokenizer.save_pretrained(draft)
            save_json(draft / "tuning.json", about)
    return path


def _check_parts(model: Model, settings: TuneSettings, only: Part | None, teacher: Model | None) -> None:
    if only is not None and settings.adapter is not None:
        raise NeuroglotError("An adapter has weights of its own; train some neurons only, or an adapter.")
    if isinstance(only, str):
        if not any(mixture.routing.owner is not None for mixture in model.mixtures.values()):
            raise NeuroglotError(f"{model.name} has no router to train; leave --only routers out.")
    elif only is not None:
        model.check_dense("its neurons lie in matrices of many experts", "tune all of it, or an adapter")
        if tuple(only.shape) != (model.layers, model.neurons):
            raise NeuroglotError(
                f"The neurons are of {tuple(only.shape)} layers and neurons, but {model.name} has "
                f"{(model.layers, model.neurons)}; find them in this model."
            )
        if not bool((only & model.exists).any()):
            raise NeuroglotError("There is no neuron to train; choose a language that has some.")
    if teacher is None:
        return
    words = [(each.vocabulary, each.tokenizer.get_vocab()) for each in (model, teacher)]
    if words[0] != words[1]:
        raise NeuroglotError(
            f"{teacher.name} has other tokens than {model.name}, so its probabilities are of other things; give the "
            "model that this one was made of."
        )


def _check_made(path: Path, about: dict[str, Any]) -> None:
    """Refuse a directory that something else made."""
    before = read_json(path / "tuning.json")
    remedy = "choose another place, or delete it"
    if before is None:
        raise NeuroglotError(f"{path} exists and is no tuned model; {remedy}.")
    known = {"only": None, "teacher": None} | before  # that an older version did not know
    known["settings"] = TuneSettings.model_validate(before["settings"]).model_dump()
    refuse_differing(f"{path} was tuned", {name: known[name] for name in about if name in known}, about, remedy)


def _same_work(work: Path, about: dict[str, Any]) -> None:
    """Begin anew unless what is there was begun with the same settings."""
    said = work / "about.json"
    if read_json(said) != about:
        clear(work)
        save_json(said, about)


def _rows(
    model: Model, examples: Sequence[Pair] | Tensor, settings: TuneSettings, language: str
) -> list[dict[str, list[int]]]:
    """Tokens and labels of each example that has something to learn."""
    if isinstance(examples, Tensor):
        given = max(1, len(model.begin))
        blocks = examples.tolist()
        return [{"input_ids": block, "labels": [IGNORED] * given + block[given:]} for block in blocks]
    limit = min(settings.max_tokens, model.context or settings.max_tokens)
    parts = model.encode([part for pair in examples for part in (f"{pair.instruction}\n\n", pair.answer)])
    rows = [_row(model, asked, answer, limit) for asked, answer in zip(parts[::2], parts[1::2], strict=True)]
    rows = [row for row in rows if any(label != IGNORED for label in row["labels"])]
    if not rows:
        raise NeuroglotError(
            f"No answer{f' in {language}' if language else ''} begins within {limit} tokens, so there is nothing "
            f"to learn; {'raise max_tokens' if limit == settings.max_tokens else f'{model.name} reads no more'}."
        )
    return rows


def _row(model: Model, asked: list[int], answer: list[int], limit: int) -> dict[str, list[int]]:
    """A pair's tokens, with labels for the answer and the end only."""
    begin = list(model.begin)
    ends = model.tokenizer.eos_token_id
    end = [ends] if ends is not None and ends < model.vocabulary else []
    tokens = [*begin, *asked, *answer, *end][:limit]
    silent = len(begin) + len(asked)
    return {"input_ids": tokens, "labels": ([IGNORED] * silent + tokens[silent:])[: len(tokens)]}
