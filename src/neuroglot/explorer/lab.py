"""The Lab tab: a prompt, languages to silence and to raise, and both answers as they are written."""

import math
import re
import time
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from queue import Queue
from threading import Event, Thread

import torch

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.directions import DIRECTIONS, Direction
from neuroglot.edit.interventions import Deactivate, UnitChange
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.steering import Method, steer
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

__all__ = ["PROMPT", "Answer", "answer_panel", "answers", "lab_recipe"]

PROMPT = 8_000
"""Characters of a prompt, at most."""
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
        layers: from 0; all by default.
        site: see `steer`.

    Raises:
        NeuroglotError: what `steer` refuses, or nothing is to be changed.
    """
    if recording.provenance is None:
        raise NeuroglotError("This recording names no model, so a recipe could not say whose neurons it changes.")
    if not silence and not higher:
        raise NeuroglotError("Tick a language to silence or to raise.")
    if both := [tag for tag in silence if tag in higher]:
        raise NeuroglotError(f"{', '.join(both)} cannot be silenced and raised at once.")
    raised = [
        steer(recording, to=tag, method=method, strength=strength, layers=layers)
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
    tokens: int = 48,
    temperature: float = 0.0,
    repetition_penalty: float = 1.1,
    chat: bool = False,
    languages: Sequence[str] = (),
    seconds: float = SECONDS,
) -> Generator[tuple[Answer, Answer], None, None]:
    """The intact and the edited answer, as they grow; at the end with time, language and perplexity.

    The model writes one after the other, in a thread that ends with the iterator.

    Args:
        model: the recipe's.
        recipe: what is changed for the second.
        prompt: to be continued or answered.
        tokens: at most so many each.
        temperature: see `generate`.
        repetition_penalty: see `generate`.
        chat: see `generate`.
        languages: of the run, which language identification must know.
        seconds: how long each may take; what is written until then is the answer, and it is said that it was cut.

    Raises:
        NeuroglotError: what `generate` refuses, the prompt is too long, or the recipe is of another model.
    """
    if len(prompt) > PROMPT:
        raise NeuroglotError(f"The prompt has {len(prompt):,} characters; the Lab takes at most {PROMPT:,}.")
    recipe.check(model)
    pair = [Answer("as it is", prompt), Answer("edited", prompt)]
    queue: Queue[tuple[int, Answer] | BaseException | None] = Queue()
    stopped = Event()
    newest = {0: "", 1: ""}

    def write() -> None:
        try:
            for place, start in enumerate(pair):
                begun = time.perf_counter()
                count = 0

                def written(text: str, place: int = place, start: Answer = start, begun: float = begun) -> None:
                    nonlocal count
                    if stopped.is_set():
                        raise _Stopped
                    count += 1
                    newest[place] = text
                    took = time.perf_counter() - begun
                    queue.put((place, replace(start, text=text, seconds=took, tokens=count)))
                    if took > seconds:
                        raise _TimeUp

                cut = False
                with nullcontext() if place == 0 else recipe.applied(model):
                    try:
                        (text,) = generate(
                            model,
                            [prompt],
                            tokens=tokens,
                            temperature=temperature,
                            repetition_penalty=repetition_penalty,
                            chat=chat,
                            written=written,
                        )
                    except _TimeUp:
                        text, cut = newest[place], True
                took = time.perf_counter() - begun
                nats, predicted = answer_nll(model, [text])[0]
                perplexity = perplexity_of(nats / predicted) if predicted else math.nan
                language, undetermined = _language(text, languages)
                done = replace(start, text=text, done=True, seconds=took, tokens=count, perplexity=perplexity, cut=cut)
                raised = recipe.about.get("to")
                marked = _marked(text, raised[0], languages) if isinstance(raised, list) and len(raised) == 1 else ()
                queue.put((place, replace(done, language=language, undetermined=undetermined, marked=marked)))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    worker = Thread(target=write, daemon=True)
    worker.start()
    try:
        yield pair[0], pair[1]
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            pair[item[0]] = item[1]
            if queue.empty():  # else the next is newer already
                yield pair[0], pair[1]
        yield pair[0], pair[1]
    finally:
        stopped.set()
        worker.join()


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
    """The words of a text, each read with two on either side of it in its line: is that another language?"""
    try:
        identify = LanguageIdentifier(languages)
    except NeuroglotError:
        return ()
    parts: list[tuple[str, bool]] = []
    for line in re.split("(\n)", text):
        pieces = re.split(r"(\s+)", line)  # words at even places, what is between them at odd ones
        words = pieces[::2]
        for place, piece in enumerate(pieces):
            near = words[max(0, place // 2 - AROUND) : place // 2 + AROUND + 1]
            found = identify(" ".join(near)) if place % 2 == 0 and piece.strip() else None
            parts.append((piece, found is not None and closest(found, [tag]) is None))
    return tuple(parts)


def answer_panel(answer: Answer) -> str:
    """An answer as HTML; prompt and text are shown as text."""
    return drawn("answer.html", answer=answer)
