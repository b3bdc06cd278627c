"""The Lab tab: a prompt, languages to silence and to raise, and both answers as they are written."""

import math
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.prompts import Prompting, prompted
from neuroglot.edit.interventions import Deactivate, UnitChange
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.steering import steer
from neuroglot.edit.steering_methods import DIRECTIONS, Direction, Method
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.perplexity import perplexity_of
from neuroglot.evaluate.steering.answers import answer_nll
from neuroglot.evaluate.steering.beginning import AROUND
from neuroglot.explorer.run_view import drawn
from neuroglot.generation.engine import generate
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.tags import closest
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model

__all__ = ["PROMPT", "Answer", "answer_panel", "answers", "blank_answers", "lab_recipe"]

PROMPT = 8_000
"""Characters of a prompt, at most."""
OPENING, CLOSING = ("(", "[", "«", "“", '"'), (".", "!", "?", ":", ";", "…", ")", "]", "»", "”", '"')
"""Where a clause begins, and where it ends."""
SECONDS = 120.0
"""How long the model may write an answer."""


@dataclass(frozen=True)
class Answer:
    """An answer as it is written."""

    title: str
    prompt: str
    text: str = ""
    done: bool = False
    seconds: float = 0.0
    tokens: int = 0
    perplexity: float = math.nan
    """Of the answer alone, to the intact model."""
    language: str | None = None
    cut: bool = False
    """Whether it took too long and was ended."""
    undetermined: str = ""
    """Why no language was detected."""
    marked: tuple[tuple[str, bool], ...] = ()
    """The text in pieces, and which of them are words of another language than the one raised; nothing if none was."""


def lab_recipe(
    recording: Recording,
    neurons: NeuronSet,
    silence: Sequence[str],
    higher: Sequence[str],
    *,
    method: Method | Direction = "replace",
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    site: Site = "activation",
    after: int | None = None,
    samples: Samples | None = None,
) -> Recipe:
    """Several languages off, several raised; a neuron of both is left to the raised.

    With a direction the stream is moved to the raised, and neurons are changed only to silence.

    Args:
        recording: of the model.
        neurons: whose.
        silence: languages whose neurons are switched off.
        higher: languages whose neurons are changed by `method`, in this order.
        method: see `steer`.
        strength: see `steer`.
        layers: whose neurons are changed, from 0; all by default.
        site: see `steer`.
        after: the layer, from 0, after which a direction is added; by default `layers`.
        samples: of the model, which a probe and LDA need.

    Raises:
        NeuroglotError: what `steer` refuses, or nothing is to be changed.
    """
    if recording.provenance is None:
        raise NeuroglotError("This recording names no model, so a recipe could not say whose neurons it changes.")
    if not silence and not higher:
        raise NeuroglotError("Tick a language to silence or to raise.")
    if both := [tag for tag in silence if tag in higher]:
        raise NeuroglotError(f"{', '.join(both)} cannot be silenced and raised at once.")
    spots = layers if after is None else [after]
    raised = [
        steer(recording, to=tag, method=method, strength=strength, layers=spots, samples=samples)
        if method in DIRECTIONS
        else steer(recording, neurons, to=tag, method=method, strength=strength, layers=layers, site=site)
        for tag in higher
    ]
    steps: list[UnitChange] = [step for recipe in raised for step in recipe.steps]
    if silence:
        within = torch.zeros(neurons.shape, dtype=torch.bool)
        within[list(range(recording.layers) if layers is None else layers)] = True
        off = neurons.union(*silence) & within
        if higher:
            off &= ~neurons.union(*higher)
        if not bool(off.any()):
            raise NeuroglotError(f"There are no neurons of {', '.join(silence)} in these layers to switch off.")
        steps.insert(0, Deactivate(off, site=site))
    about = {"model": recording.provenance.model, "to": list(higher), "source": list(silence), "method": method}
    return Recipe(steps, recording.provenance.fingerprint, about)


def answers(
    model: Model,
    recipe: Recipe,
    prompt: str,
    *,
    prompting: Prompting = "none",
    tokens: int = 48,
    temperature: float = 0.0,
    repetition_penalty: float = 1.1,
    chat: bool = False,
    languages: Sequence[str] = (),
    seconds: float = SECONDS,
) -> Generator[tuple[Answer, ...], None, None]:
    """The intact and the edited answer, as they grow; at the end with time, language and perplexity.

    The model writes one after the other, in a thread that ends with the iterator.

    Args:
        model: the recipe's.
        recipe: what is changed for the second.
        prompt: to be continued or answered.
        prompting: with I or II the prompt is also put with «answer in X» to the intact and to the edited model: four
            answers.
        tokens: at most so many each.
        temperature: see `generate`.
        repetition_penalty: see `generate`.
        chat: see `generate`.
        languages: of the run, which language identification must know.
        seconds: how long each may take; what is written until then is the answer, and it is said that it was cut.

    Raises:
        NeuroglotError: what `generate` refuses, the prompt is too long, the recipe is of another model, or a language
            is to be asked for and not one is raised.
    """
    if len(prompt) > PROMPT:
        raise NeuroglotError(f"The prompt has {len(prompt):,} characters; the Lab takes at most {PROMPT:,}.")
    recipe.check(model)
    to = recipe.about.get("to")
    target = to[0] if isinstance(to, list) and len(to) == 1 else None
    group = blank_answers(prompt, prompting, target, languages, chat=chat)
    how = {"tokens": tokens, "temperature": temperature, "repetition_penalty": repetition_penalty, "chat": chat}
    queue: Queue[tuple[int, Answer] | BaseException | None] = Queue()
    stopped = Event()

    def write() -> None:
        try:
            for place, start in enumerate(group):
                with recipe.applied(model) if place % 2 else nullcontext():
                    done = _written(model, start, how, seconds, partial(show, place))
                nats, predicted = answer_nll(model, [done.text])[0]
                language, undetermined = _language(done.text, languages)
                marked = () if target is None else _marked(done.text, target, languages)
                perplexity = perplexity_of(nats / predicted) if predicted else math.nan
                done = replace(done, done=True, perplexity=perplexity, language=language, undetermined=undetermined)
                queue.put((place, replace(done, marked=marked)))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    def show(place: int, grown: Answer) -> None:
        if stopped.is_set():
            raise _Stopped
        queue.put((place, grown))

    worker = Thread(target=write, daemon=True)
    worker.start()
    try:
        yield tuple(group)
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            group[item[0]] = item[1]
            if queue.empty():  # else the next is newer already
                yield tuple(group)
        yield tuple(group)
    finally:
        stopped.set()
        worker.join()


def blank_answers(
    prompt: str, prompting: Prompting, target: str | None, languages: Sequence[str], *, chat: bool
) -> list[Answer]:
    """The answers before a word is written: intact and edited, then both once more where the language is asked for.

    Raises:
        NeuroglotError: a language is to be asked for, and there is no single one, or the sentence is not built in.
    """
    pair = [Answer("as it is", prompt), Answer("edited", prompt)]
    if prompting == "none":
        return pair
    if target is None:
        raise NeuroglotError("Raise one language: it is the one that «answer in X» asks for.")
    source = _language(prompt, languages)[0] or "en"
    (asked,) = prompted([prompt], source, target, prompting, chat=chat)
    return [*pair, *(Answer(f"{each.title}, prompting {prompting}", asked) for each in pair)]


def _written(model: Model, start: Answer, how: dict[str, Any], most: float, show: Callable[[Answer], None]) -> Answer:
    """An answer that is shown as it grows, and ended when it takes too long."""
    begun, newest = time.perf_counter(), start

    def written(text: str) -> None:
        nonlocal newest
        took = time.perf_counter() - begun
        newest = replace(start, text=text, seconds=took, tokens=newest.tokens + 1)
        show(newest)
        if took > most:
            raise _TimeUp

    try:
        (text,) = generate(model, [start.prompt], written=written, **how)
    except _TimeUp:
        return replace(newest, cut=True)
    return replace(newest, text=text, seconds=time.perf_counter() - begun)


class _TimeUp(Exception):
    """An answer took as long as one may."""


class _Stopped(Exception):
    """Nobody reads the answer any more."""


def _language(text: str, languages: Sequence[str]) -> tuple[str | None, str]:
    try:
        return LanguageIdentifier(languages)(text), ""
    except NeuroglotError as error:
        return None, str(error)


def _marked(text: str, tag: str, languages: Sequence[str]) -> tuple[tuple[str, bool], ...]:
    """The words of a text, each read with two on either side of it in its clause: is that another language?"""
    try:
        identify = LanguageIdentifier(languages)
    except NeuroglotError:
        return ()
    parts: list[tuple[str, bool]] = []
    for line in re.split("(\n)", text):
        pieces = re.split(r"(\s+)", line)  # words at even places, what is between them at odd ones
        words, ends = pieces[::2], _clauses(pieces[::2])
        for place, piece in enumerate(pieces):
            first, last = ends[place // 2]
            near = words[max(first, place // 2 - AROUND) : min(last, place // 2 + AROUND + 1)]
            found = identify(" ".join(near)) if place % 2 == 0 and piece.strip() else None
            parts.append((piece, found is not None and closest(found, [tag]) is None))
    return tuple(parts)


def _clauses(words: Sequence[str]) -> list[tuple[int, int]]:
    """Of each word where its clause begins and ends: what brackets, quotation marks or full stops hold.

    One word tells no language, so what would stand alone has the whole line around it.
    """
    cuts = {0, len(words)}
    for place, word in enumerate(words):
        cuts |= {place} if word.startswith(OPENING) else set()
        cuts |= {place + 1} if word.endswith(CLOSING) else set()
    places = sorted(cuts)
    found = []
    for first, last in pairwise(places):
        found += [(first, last) if last - first > 1 else (0, len(words))] * (last - first)
    return found


def answer_panel(answer: Answer) -> str:
    """An answer as HTML; prompt and text are shown as text."""
    return drawn("answer.html", answer=answer)
