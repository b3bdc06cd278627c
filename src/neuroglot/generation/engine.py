"""Write text: many prompts, each under a recipe of its own if need be, by the fastest engine that the model allows."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch

from neuroglot.corpus.texts import texts_of
from neuroglot.edit.interventions import check_intervention
from neuroglot.edit.rows import in_rows
from neuroglot.errors import NeuroglotError
from neuroglot.generation.choice import Choice
from neuroglot.generation.prompts import Row, check_lengths, prompt_tokens, stretched
from neuroglot.generation.settings import check_settings
from neuroglot.models.architecture.body import has_encoder
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.model import Model
from neuroglot.models.workers import spread
from neuroglot.storage.given import takes_numbers

__all__ = ["generate"]


@runtime_checkable
class Bound(Protocol):
    """What knows the model that it is for, as a recipe does."""

    def check(self, model: Model) -> None:
        """Refuse another model."""


@torch.inference_mode()
@takes_numbers
def generate(
    model: Model,
    prompts: Iterable[str],
    *,
    recipes: Iterable[Any] | None = None,
    tokens: int = 64,
    repetition_penalty: float = 1.0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    streams: Sequence[int] | None = None,
    batch: int | None = None,
    cache: bool = True,
    chat: bool = False,
    engine: str = "auto",
    written: Callable[[str], None] | None = None,
    advance: Callable[[int, str], None] = lambda prompts, what: None,
) -> list[str]:
    """Continue each prompt, under the interventions in force and its own recipe.

    What is written to a prompt depends neither on the prompts beside it nor on the batch (in float32; in bfloat16 two
    batch sizes may round differently).

    Args:
        model: intact or changed.
        prompts: texts; BOS is put before each where the tokenizer defines one.
        recipes: a `Recipe`, a `Condition` or None for each prompt, in force for it alone.
        tokens: at most so many new ones each; an end-of-sequence token ends it sooner.
        repetition_penalty: logits of tokens that are in the prompt or the answer are divided by it (multiplied where
            negative); 1 does nothing, the LAPE paper takes 1.1 (§3.1).
        temperature: 0 takes the likeliest token (greedy); above it, samples.
        top_p: when sampling, only from the likeliest tokens that make up this probability.
        seed: of the sampling. The same seed and prompts give the same texts.
        streams: which sequence of random numbers each prompt draws when sampling; by default one each, 0, 1, 2 …
        batch: prompts a forward pass; by default as many as the device likes.
        cache: keep keys and values; without, every token is read again for each new one, with the same result.
        chat: put each prompt into the tokenizer's chat template.
        engine: `continuous` (one queue, finished rows replaced, CUDA graphs on a GPU), `huggingface` (transformers'
            `generate`, the reference), or `auto`: the first where the model can.
        written: called with the whole continuation so far after each token; one prompt only.
        advance: called with the number of prompts finished, and a word.

    Returns:
        The continuations, without their prompts.

    Raises:
        NeuroglotError: a prompt is empty, a prompt and its answer are longer than the model's positions, a setting is
            out of range, a recipe is of another model, there is no chat template, or the model is an encoder with a
            decoder.
    """
    prompts = texts_of(prompts, "prompts")
    check_settings(tokens, repetition_penalty, temperature, top_p, batch)
    model.check_state()
    if has_encoder(model.network):
        raise NeuroglotError(
            f"{model.name} writes from what its encoder reads and does not continue a prompt; what its decoder holds "
            "can be recorded, ablated and measured by perplexity."
        )
    if written is not None and len(prompts) != 1:
        raise NeuroglotError("Only one prompt at a time can be streamed; give one.")
    changes = list(recipes) if recipes is not None else [None] * len(prompts)
    if len(changes) != len(prompts):
        raise NeuroglotError(f"There are {len(changes)} recipes for {len(prompts)} prompts; give one each, or None.")
    for change in changes:
        if change is not None and not (hasattr(change, "steps") and hasattr(change, "applied")):
            raise NeuroglotError(
                f"A prompt's recipe is a Recipe, a Condition or None, not {type(change).__name__}; put interventions "
                "into a Condition(name, (…,))."
            )
    encoded = prompt_tokens(model, prompts, chat)
    check_lengths(model, encoded, tokens)
    if stretched(model, encoded, tokens):
        engine, batch = "huggingface", 1
    drawn = list(streams) if streams is not None else list(range(len(prompts)))
    if not all(isinstance(stream, Integral) for stream in drawn):
        raise NeuroglotError("streams are whole numbers, one for each prompt.")
    if len(drawn) != len(prompts):
        raise NeuroglotError(f"There are {len(drawn)} streams for {len(prompts)} prompts; give one each.")
    how = (engine, cache, Choice(repetition_penalty, temperature, top_p, seed), tokens, batch)
    write = _writer(model, *how)
    shown = None if written is None else lambda ids: written(_text(model, ids).rstrip("\ufffd"))
    answers: list[list[int]] = [[] for _ in prompts]
    for change, numbers in _queues(model, changes):
        alone = change is not None  # in force for the whole queue
        rows = [Row(encoded[i], () if alone else getattr(changes[i], "steps", ()), drawn[i]) for i in numbers]
        if change is None and shown is None and model.workers is not None:
            made = _shared_out(model, rows, how, advance)
        else:
            with nullcontext() if change is None else change.applied(model):
                made = write(rows, written=shown, advance=lambda count: advance(count, ""))
        for number, answer in zip(numbers, made, strict=True):
            answers[number] = answer
    return [_text(model, answer) for answer in answers]


def _shared_out(
    model: Model, rows: Sequence[Row], how: tuple[Any, ...], advance: Callable[[int, str], None]
) -> list[list[int]]:
    """What is written to each row, a part of the queue by each of the model's workers."""
    count = min(len(rows), 1 if model.workers is None else model.workers.count)
    jobs = [(rows[first::count], how) for first in range(count)]
    made: list[list[int]] = [[] for _ in rows]
    parts = spread(model, _write_rows, jobs, advance, [(len(part), "") for part, _ in jobs])
    for first, part in enumerate(parts):
        made[first::count] = part
    return made


@torch.inference_mode()
def _write_rows(
    model: Model,
    rows: Sequence[Row],
    how: tuple[Any, ...],
    advance: Callable[[int, str], None] = lambda prompts, what: None,
) -> list[list[int]]:
    """What a worker does with its part of a queue."""
    return _writer(model, *how)(rows, advance=lambda count: advance(count, ""))


def _queues(model: Model, changes: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Which prompts go into one queue: all whose changes can differ by row, and those of each other change."""
    one: list[int] = []
    by_row = all(type(ffn) is FFN for ffn in model.ffns)  # other kinds may see tokens in another order than rows
    others: dict[int, tuple[Any, list[int]]] = {}
    for change in {id(change): change for change in changes if change is not None}.values():
        if by_row and in_rows(change.steps):
            _check(model, change)
        else:
            with change.applied(model):
                pass
    for number, change in enumerate(changes):
        if change is None or (by_row and in_rows(change.steps)):
            one.append(number)
        else:
            others.setdefault(id(change), (change, []))[1].append(number)
    return [(None, one), *others.values()] if one else list(others.values())


def _check(model: Model, change: Any) -> None:
    """Refuse what is of another model, as `applied` does, but without a hook for each of its layers."""
    if isinstance(change, Bound):
        change.check(model)
    for step in change.steps:
        check_intervention(step, model)


def _writer(
    model: Model, engine: str, cache: bool, choice: Choice, tokens: int, batch: int | None
) -> Callable[..., list[list[int]]]:
    """The engine, with what is the same for all rows."""
    from neuroglot.generation.continuous import reason_against, write_continuously
    from neuroglot.generation.huggingface import write_plainly

    if engine not in ("auto", "continuous", "huggingface"):
        raise NeuroglotError(f"The engine is auto, continuous or huggingface, not {engine!r}.")
    against = "keys and values are not kept" if not cache else "" if engine == "huggingface" else reason_against(model)
    if engine == "continuous" and against:
        raise NeuroglotError(
            f"{model.name} cannot be run by the continuous engine: {against}; leave the choice to auto."
        )
    if engine == "huggingface" or against:
        return lambda rows, **more: write_plainly(model, rows, tokens, choice, batch=batch, cache=cache, **more)
    return lambda rows, **more: write_continuously(model, rows, tokens, choice, batch=batch, **more)


def _text(model: Model, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(ids, skip_special_tokens=True))
