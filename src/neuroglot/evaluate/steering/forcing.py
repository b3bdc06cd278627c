"""Language forcing: does a model asked in one language answer in another, when its neurons say so?

Every answer belongs to a *cell*: a condition (what is done to the model), the source language of the prompts and the
target language of the answers. A cell's answers depend on what the condition does, the prompts and how they are
continued, and are kept under a digest of just these: a rerun reads them, and so does another experiment that needs the
same cell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.prompts import PROMPTINGS, Prompting, prompted
from neuroglot.corpus.texts import prompts_by_language
from neuroglot.edit.conditions import Condition, digest_of_steps
from neuroglot.edit.directions import shuffled
from neuroglot.edit.interventions import Deactivate, UnitChange
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.steering import steer
from neuroglot.edit.steering_methods import DIRECTIONS, ROUTER, Direction, Method, Routed
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import answer_nll, describe
from neuroglot.generation.engine import generate
from neuroglot.generation.prompts import said_around
from neuroglot.generation.settings import Generation
from neuroglot.identify.random_neurons import random
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.identifiers import Identification, Identifier, identifier
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import ResultCache, digest_of_settings

__all__ = ["CONDITIONS", "Cell", "Forced", "Forcing", "Prompts", "Steering", "condition_name", "deactivated", "force"]

Prompts = Mapping[str, Sequence[str]]

CELLS = 512
"""Cells whose recipes are made at a time."""
QUEUE_ROWS = 512
"""Answers that are written in one queue, before they are kept."""
QUEUE_CELLS = 512
"""Cells of a queue at most; fewer where their recipes, four numbers a neuron and a copy, take more than the bytes."""
RECIPE_BYTES, UNIT_BYTES = 1 << 31, 32

Forced = Literal["intact", "source off", "raised", "both", "random"]
CONDITIONS: tuple[Forced, ...] = ("intact", "source off", "raised", "both", "random")
"""Nothing; the source's neurons off; the target's changed; both; both with random neurons of the same numbers."""


class Steering(BaseModel, frozen=True, allow_inf_nan=False):
    """How the target is raised; see `steer`."""

    method: Method | Direction | Routed = "replace"
    """What is done to the target's neurons; or in their place a direction of the residual stream, or the router."""
    site: Site = "activation"
    """Where."""
    strength: float = 1.0
    """Times the mean (the factor, for scale)."""
    layers: tuple[int, ...] | None = None
    """From 0; all by default."""
    when: When = "both"
    """On which tokens."""
    raised: Method | None = None
    """With a direction: what is done to the target's neurons besides, if anything."""
    dimensions: int | None = None
    """How many dimensions a layer `sparse` changes; see `steer`."""

    def recipe(
        self,
        recording: Recording,
        neurons: NeuronSet | None,
        to: str | None,
        source: str | None,
        samples: Samples | None = None,
    ) -> Recipe:
        """The recipe of one cell; a direction takes neurons to ablate the source's, and where `raised` says so.

        The router takes none: a source's experts are taken out.
        """
        if self.method == ROUTER:
            return steer(
                recording, neurons if self.raised else None, to, source=source, method=ROUTER, strength=self.strength,
                layers=self.layers, when=self.when, raised=self.raised or "replace",
            )  # fmt: skip
        if self.method not in DIRECTIONS or (to is not None and self.raised is not None):
            return steer(
                recording, neurons, to, source=source, method=self.method, site=self.site, strength=self.strength,
                layers=self.layers, when=self.when, samples=samples, dimensions=self.dimensions,
                raised=self.raised or "replace",
            )  # fmt: skip
        moved = None
        if to is not None:
            moved = steer(
                recording, to=to, method=self.method, strength=self.strength, layers=self.layers, when=self.when,
                samples=samples, dimensions=self.dimensions,
            )  # fmt: skip
            if source is None:
                return moved
        off = steer(recording, neurons, None, source=source, site=self.site, when=self.when)
        return off if moved is None else off + moved

    def words(self) -> str:
        """In a few words; layers count from 1."""
        layers = "" if self.layers is None else f", {_span(self.layers)}"
        when = "" if self.when == "both" else f", {self.when} tokens"
        site = "residual" if self.method in DIRECTIONS else ROUTER if self.method == ROUTER else self.site
        few = "" if self.dimensions is None else f", {self.dimensions} dimensions"
        besides = f"{self.raised} at {self.site} + " if self.raised else ""
        return f"{besides}{self.method} × {self.strength:g} at {site}{layers}{few}{when}"

    def in_condition(self, condition: str) -> str | None:
        """What is done in a condition, in a few words; None where the model is intact."""
        name = condition.split(" + prompting ")[0]
        if name not in CONDITIONS[2:]:
            return name if name == "source off" else None
        return self.words() + {"both": ", source off", "random": ", source off, random neurons"}.get(name, "")


def _span(layers: Sequence[int]) -> str:
    if len(layers) == 1:
        return f"layer {layers[0] + 1}"
    dense = list(layers) == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0] + 1}-{layers[-1] + 1}" if dense else f"{len(layers)} layers"


def condition_name(condition: str, prompting: Prompting) -> str:
    """What rows of a condition under a prompting are called: `prompting I` is the intact model's."""
    if prompting == "none":
        return condition
    return f"prompting {prompting}" if condition == "intact" else f"{condition} + prompting {prompting}"


@takes_numbers
def force(
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    prompts: Prompts,
    *,
    targets: Sequence[str] | None = None,
    how: Steering | None = None,
    conditions: Sequence[Forced] = CONDITIONS,
    seeds: int = 1,
    prompting: Sequence[Prompting] = ("none",),
    samples: Samples | None = None,
    identification: Identification = "lingua",
    generation: Generation | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Ask in every source language, steer to every target, and describe every answer.

    Args:
        model: the one recorded; left as it was.
        recording: gives the values.
        neurons: whose.
        prompts: source language → prompts.
        targets: languages to answer in; by default those of the neurons.
        how: the target is raised.
        conditions: see `CONDITIONS`. Where source and target are one language nothing is switched off.
        seeds: how many random draws the condition `random` has.
        prompting: every condition is measured with each of these: `none`, and prompts that say «answer in X» in English
            (`I`) or in X (`II`); see `prompted`.
        samples: of the model with their mean states, for the directions `probe` and `lda`.
        identification: who tells the language of an answer: `lingua` or `fasttext`.
        generation: how prompts are continued.
        directory: keep finished cells here and go on with what is there.
        progress: show a bar.

    Returns:
        A row an answer: condition (under a prompting it is called so, too: `raised + prompting I`), prompting, seed,
        source, target, prompt (without the sentence that asks for the language) and what `describe` says of it.

    Raises:
        NeuroglotError: the model is not the one recorded, a language is unknown to the recording or the neurons, no
            library tells a target, or there is no prompt.
    """
    neurons = checked_set(neurons).of_model(recording)
    how = how or Steering()
    wanted = [language_tag(tag) for tag in targets or neurons.languages]
    sources = prompts_by_language(prompts)
    for chosen, known in ((conditions, CONDITIONS), (prompting, PROMPTINGS)):
        if unknown := [name for name in chosen if name not in known]:
            raise NeuroglotError(f"There is no condition {unknown[0]!r}; choose among {', '.join(known)}.")
    cells = [
        Cell(name, source, target, texts, how, way, seed)
        for name in conditions
        for seed in (range(seeds) if name == "random" else (None,))
        for way in prompting
        for source, texts in sources.items()
        for target in wanted
    ]
    work = Forcing(
        model, recording, neurons, languages=[*wanted, *sources], samples=samples, identification=identification,
        generation=generation, directory=directory, progress=progress,
    )  # fmt: skip
    return work.answers(cells)


@dataclass(frozen=True)
class Cell:
    """Prompts of one source to be answered in one target, and what is done.

    Attributes:
        condition: see `CONDITIONS`. Where source and target are one language nothing is switched off.
        source: the language of the prompts.
        target: the language to answer in.
        prompts: without the sentence that asks for the language.
        how: the target is raised.
        prompting: what the prompts ask for.
        seed: of the random neurons.
        name: what rows are called; by default the condition, under its prompting.
    """

    condition: Forced
    source: str
    target: str
    prompts: Sequence[str]
    how: Steering = field(default_factory=Steering)
    prompting: Prompting = "none"
    seed: int | None = None
    name: str | None = None


class Forcing:
    """Answers of cells, many of them side by side in the queue of the generation engine.

    Args:
        model: the one recorded; left as it was.
        recording: gives the values.
        neurons: whose.
        languages: that answers may be in.
        samples: of the model with their mean states, for the directions `probe` and `lda`.
        identification: who tells the language of an answer: `lingua` or `fasttext`.
        generation: how prompts are continued.
        directory: keep finished cells here and go on with what is there.
        progress: show a bar.

    Raises:
        NeuroglotError: no library tells a language.
    """

    def __init__(
        self,
        model: Model,
        recording: Recording,
        neurons: NeuronSet,
        *,
        languages: Sequence[str],
        samples: Samples | None = None,
        identification: Identification = "lingua",
        generation: Generation | None = None,
        directory: str | Path | None = None,
        progress: bool = True,
    ):
        self.model, self.recording, self.neurons, self.samples = model, recording, neurons, samples
        self.identify = LanguageIdentifier(languages)
        self.tell = self.identify if identification == "lingua" else identifier(identification, languages)
        self.progress, self.chat = progress, (generation or Generation()).chat
        self._made = _Answers(model, generation or Generation(), directory)
        self._drawn: dict[int, NeuronSet] = {}

    def answers(self, cells: Sequence[Cell]) -> pd.DataFrame:
        """A row an answer, cell by cell; see `force`.

        Raises:
            NeuroglotError: there is no cell, or what `force` raises.
        """
        if not cells:
            raise NeuroglotError("There is nothing to ask: give prompts, targets and conditions.")
        tables = []
        with progress_bar(
            "answers", sum(len(cell.prompts) for cell in cells), unit="answers", shown=self.progress
        ) as advance:
            for first in range(0, len(cells), CELLS):
                some = cells[first : first + CELLS]
                known: dict[Any, Condition] = {}
                asked = [(self._condition(cell, known), self._asked(cell)) for cell in some]
                self._made.write(asked, advance)
                tables += [self._described(cell, *both) for cell, both in zip(some, asked, strict=True)]
        return pd.concat(tables, ignore_index=True)

    def _asked(self, cell: Cell) -> list[str]:
        return prompted(cell.prompts, cell.source, cell.target, cell.prompting, chat=self.chat)

    def _described(self, cell: Cell, condition: Condition, asked: Sequence[str]) -> pd.DataFrame:
        table = self._made.described(condition, asked, cell.target, self.identify, self.tell)
        name = cell.name or condition_name(cell.condition, cell.prompting)
        named = {"condition": name, "prompting": cell.prompting, "seed": cell.seed or 0}
        named |= {"source": cell.source, "target": cell.target}
        return pd.concat([pd.DataFrame({**named, "prompt": list(cell.prompts)}), table], axis=1)

    def _condition(self, cell: Cell, known: dict[Any, Condition]) -> Condition:
        """What is done to the model; of the same to two cells there is one, which shares its place in a queue."""
        off = None if closest(cell.source, [cell.target]) else closest(cell.source, self.neurons.languages)
        raised, switched = {
            "intact": (None, None),
            "source off": (None, off),
            "raised": (cell.target, None),
            "both": (cell.target, off),
            "random": (cell.target, off),
        }[cell.condition]
        same = (cell.condition, raised, switched, cell.how, cell.seed)
        if same not in known:
            steps: list[UnitChange] = []
            if raised is not None or switched is not None:
                recipe = cell.how.recipe(self.recording, self._neurons(cell), raised, switched, self.samples)
                recipe.check(self.model)
                steps = list(recipe.steps)
            if cell.condition == "random":
                steps = [shuffled(step, cell.seed or 0) for step in steps]
            known[same] = Condition(cell.condition, tuple(steps), cell.seed)
        return known[same]

    def _neurons(self, cell: Cell) -> NeuronSet:
        if cell.condition != "random":
            return self.neurons
        seed = cell.seed or 0
        return self._drawn.setdefault(seed, random(self.neurons, seed=seed))


class _Answers:
    """What the model writes under a condition and how likely that is to it when intact, kept by what it depends on."""

    def __init__(self, model: Model, generation: Generation, directory: str | Path | None):
        self.model, self.generation, self.cache = model, generation, ResultCache(directory)

    def write(self, cells: Sequence[tuple[Condition, Sequence[str]]], advance: Callable[[int, str], None]) -> None:
        """Write the answers of all cells that are not there, rows of several conditions side by side.

        Answers of a cell are what they are alone: a row's text does not depend on its neighbours, and its random
        numbers are those of its place in the cell.
        """
        missing = {}
        for condition, prompts in cells:
            about, digest = self._about(condition, prompts)
            if digest in missing or self._found(digest) is not None:
                advance(len(prompts), "")
            else:
                missing[digest] = (about, condition, prompts)
        units = max(1, self.model.layers * self.model.neurons)
        for some in _queues(missing, max(1, min(QUEUE_CELLS, RECIPE_BYTES // (UNIT_BYTES * units)))):
            rows = [
                (condition, number, text)
                for _, condition, prompts in some.values()
                for number, text in enumerate(prompts)
            ]
            written = iter(
                generate(
                    self.model, [text for *_, text in rows], recipes=[condition for condition, *_ in rows],
                    streams=[number for _, number, _ in rows], advance=advance, **self.generation.model_dump(),
                )
            )  # fmt: skip
            for digest, (about, _, prompts) in some.items():
                answers = list(islice(written, len(prompts)))
                self.cache.keep(digest, {**about, "answers": answers, "likely": answer_nll(self.model, answers)})

    def described(
        self,
        condition: Condition,
        prompts: Sequence[str],
        target: str,
        identify: LanguageIdentifier,
        tell: Identifier | None = None,
    ) -> pd.DataFrame:
        """What `describe` says of the answers to some prompts, which were written."""
        found = self._found(self._about(condition, prompts)[1])
        assert found is not None
        table = describe(self.model, found["answers"], target, identify, tell=tell, perplexity=False)
        table["nll"], table["tokens"] = zip(*found["likely"], strict=True) if found["likely"] else ([], [])
        return table

    def _found(self, digest: str) -> dict[str, Any] | None:
        return self.cache.find(digest, lambda kept: {"answers", "likely"} <= set(kept))

    def _about(self, condition: Condition, prompts: Sequence[str]) -> tuple[dict[str, Any], str]:
        """What the answers of a cell depend on, and its digest."""
        about = {
            "model": self.model.fingerprint,
            "dtype": str(self.model.network.dtype),
            "recipe": digest_of_steps(condition.steps, self.model.fingerprint) if condition.steps else None,
            "prompts": list(prompts),
            "generation": self.generation.model_dump(),
        }
        about |= said_around(self.model, self.generation.chat)
        return about, digest_of_settings(about)


def _queues(cells: Mapping[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Cells that are written together: many rows, so that a step has work, and not all, so that an end keeps some."""
    some: dict[str, Any] = {}
    rows = 0
    for digest, cell in cells.items():
        some[digest] = cell
        rows += len(cell[-1])
        if rows >= QUEUE_ROWS or len(some) >= most:
            yield some
            some, rows = {}, 0
    if some:
        yield some


def deactivated(
    model: Model,
    neurons: NeuronSet,
    prompts: Prompts,
    *,
    generation: Generation | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Each language's prompts, answered with each language's neurons off (Tang et al. 2024, Table 1).

    With a judge it is the paper's table: `judge.rate(table).pivot_table("score", "off", "target", sort=False)`.

    Returns:
        A row an answer: off (`normal` for none, a language, `random` for as many random neurons as the largest set),
        source and target (both the prompt's language), prompt, and what `describe` says.

    Raises:
        NeuroglotError: the neurons are of another shape, or no library tells a language.
    """
    neurons = checked_set(neurons).of_model(model)
    sources = prompts_by_language(prompts)
    identify, made = LanguageIdentifier(list(sources)), _Answers(model, generation or Generation(), directory)
    largest = max(neurons.sizes(), key=lambda tag: neurons.sizes()[tag])
    masks = {tag: neurons[tag] for tag in neurons.languages} | {"random": random(neurons)[largest]}
    conditions = [Condition("normal"), *(Condition(tag, (Deactivate(mask),)) for tag, mask in masks.items())]
    cells = [(condition, texts) for condition in conditions for texts in sources.values()]
    with progress_bar("answers", sum(len(texts) for _, texts in cells), unit="answers", shown=progress) as advance:
        made.write(cells, advance)
    tables = [
        made.described(condition, texts, tag, identify).assign(off=condition.name, source=tag, target=tag, prompt=texts)
        for condition in conditions
        for tag, texts in sources.items()
    ]
    return pd.concat(tables, ignore_index=True)
