"""Language forcing: does a model asked in one language answer in another, when its neurons say so?

Every answer belongs to a *cell*: a condition (what is done to the model), the source language of the prompts and the
target language of the answers. A cell's answers depend on what the condition does, the prompts and how they are
continued, and are kept under a digest of just these: a rerun reads them, and so does another experiment that needs the
same cell.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.conditions import Condition, digest_of_steps
from neuroglot.edit.directions import DIRECTIONS, Direction, shuffled
from neuroglot.edit.interventions import Deactivate
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.steering import ROUTER, Method, Routed, steer
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import answer_nll, describe
from neuroglot.generation.engine import generate
from neuroglot.generation.settings import Generation
from neuroglot.identify.random_neurons import random
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.storage.results import ResultCache, digest_of_settings

__all__ = ["CONDITIONS", "Forced", "Prompts", "Steering", "deactivated", "force"]

Prompts = Mapping[str, Sequence[str]]

QUEUE_ROWS = 512
"""Answers that are written in one queue, before they are kept."""
QUEUE_CELLS = 64
"""Cells of a queue at most: each has its recipe in memory, four numbers a neuron."""

Forced = Literal["intact", "source off", "raised", "both", "random"]
CONDITIONS: tuple[Forced, ...] = ("intact", "source off", "raised", "both", "random")
"""Nothing; the source's neurons off; the target's changed; both; both with random neurons of the same numbers."""


class Steering(BaseModel, frozen=True):
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

    def recipe(self, recording: Recording, neurons: NeuronSet | None, to: str | None, source: str | None) -> Recipe:
        """The recipe of one cell; a direction takes neurons only to ablate the source's, the router none."""
        if self.method == ROUTER:
            return steer(
                recording, to=to, source=source, method=ROUTER, strength=self.strength, layers=self.layers,
                when=self.when,
            )  # fmt: skip
        if self.method in DIRECTIONS:
            moved = None
            if to is not None:
                moved = steer(
                    recording, to=to, method=self.method, strength=self.strength, layers=self.layers, when=self.when
                )
            if source is None and moved is not None:
                return moved
            off = steer(recording, neurons, None, source=source, site=self.site, when=self.when)
            return off if moved is None else off + moved
        return steer(
            recording, neurons, to, source=source, method=self.method, site=self.site, strength=self.strength,
            layers=self.layers, when=self.when,
        )  # fmt: skip

    def words(self) -> str:
        """In a few words."""
        layers = "" if self.layers is None else f", {len(self.layers)} layers"
        when = "" if self.when == "both" else f", {self.when} tokens"
        site = "residual" if self.method in DIRECTIONS else ROUTER if self.method == ROUTER else self.site
        return f"{self.method} × {self.strength:g} at {site}{layers}{when}"


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
        generation: how prompts are continued.
        directory: keep finished cells here and go on with what is there.
        progress: show a bar.

    Returns:
        A row an answer: condition, seed, source, target, prompt and what `describe` says of it.

    Raises:
        NeuroglotError: the model is not the one recorded, a language is unknown to the recording or the neurons, no
            library tells a target, or there is no prompt.
    """
    how, generation = how or Steering(), generation or Generation()
    targets = [language_tag(tag) for tag in targets or neurons.languages]
    sources = {language_tag(tag): list(texts) for tag, texts in prompts.items()}
    identify = LanguageIdentifier([*targets, *sources])
    if unknown := [name for name in conditions if name not in CONDITIONS]:
        raise NeuroglotError(f"There is no condition {unknown[0]!r}; choose among {', '.join(CONDITIONS)}.")
    cells = [
        (_condition(name, seed, model, recording, chosen, source, target, how), source, target)
        for name in conditions
        for seed, chosen in _draws(neurons, name, seeds)
        for source in sources
        for target in targets
    ]
    if not cells:
        raise NeuroglotError("There is nothing to ask: give prompts, targets and conditions.")
    made = _Answers(model, generation, directory)
    made.write([(condition, sources[source]) for condition, source, _ in cells], progress)
    tables = []
    for condition, source, target in cells:
        table = made.described(condition, sources[source], target, identify)
        named = {"condition": condition.name, "seed": condition.seed or 0, "source": source, "target": target}
        tables.append(pd.concat([pd.DataFrame({**named, "prompt": sources[source]}), table], axis=1))
    return pd.concat(tables, ignore_index=True)


def _draws(neurons: NeuronSet, name: Forced, seeds: int) -> list[tuple[int | None, NeuronSet]]:
    """The neurons of a condition, with the seed of each draw."""
    return [(seed, random(neurons, seed=seed)) for seed in range(seeds)] if name == "random" else [(None, neurons)]


def _condition(
    name: Forced,
    seed: int | None,
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    source: str,
    target: str,
    how: Steering,
) -> Condition:
    off = None if closest(source, [target]) else closest(source, neurons.languages)
    raised, switched = {
        "intact": (None, None),
        "source off": (None, off),
        "raised": (target, None),
        "both": (target, off),
        "random": (target, off),
    }[name]
    if raised is None and switched is None:
        return Condition(name, (), seed)
    recipe = how.recipe(recording, neurons, raised, switched)
    recipe.check(model)
    steps = [shuffled(step, seed or 0) if name == "random" else step for step in recipe.steps]
    return Condition(name, tuple(steps), seed)


class _Answers:
    """What the model writes under a condition and how likely that is to it when intact, kept by what it depends on."""

    def __init__(self, model: Model, generation: Generation, directory: str | Path | None):
        self.model, self.generation, self.cache = model, generation, ResultCache(directory)

    def write(self, cells: Sequence[tuple[Condition, Sequence[str]]], progress: bool) -> None:
        """Write the answers of all cells that are not there, rows of several conditions side by side.

        Answers of a cell are what they are alone: a row's text does not depend on its neighbours, and its random
        numbers are those of its place in the cell.
        """
        with token_progress("answers", sum(len(prompts) for _, prompts in cells), shown=progress) as advance:
            missing = {}
            for condition, prompts in cells:
                about, digest = self._about(condition, prompts)
                if digest in missing or self._found(digest) is not None:
                    advance(len(prompts), "")
                else:
                    missing[digest] = (about, condition, prompts)
            for some in _queues(missing):
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
        self, condition: Condition, prompts: Sequence[str], target: str, identify: LanguageIdentifier
    ) -> pd.DataFrame:
        """What `describe` says of the answers to some prompts, which were written."""
        found = self._found(self._about(condition, prompts)[1])
        assert found is not None
        table = describe(self.model, found["answers"], target, identify, perplexity=False)
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
        return about, digest_of_settings(about)


def _queues(cells: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Cells that are written together: many rows, so that a step has work, and not all, so that an end keeps some."""
    some: dict[str, Any] = {}
    rows = 0
    for digest, cell in cells.items():
        some[digest] = cell
        rows += len(cell[-1])
        if rows >= QUEUE_ROWS or len(some) >= QUEUE_CELLS:
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
    sources = {language_tag(tag): list(texts) for tag, texts in prompts.items()}
    identify, made = LanguageIdentifier(list(sources)), _Answers(model, generation or Generation(), directory)
    largest = max(neurons.sizes(), key=lambda tag: neurons.sizes()[tag])
    masks = {tag: neurons[tag] for tag in neurons.languages} | {"random": random(neurons)[largest]}
    conditions = [Condition("normal"), *(Condition(tag, (Deactivate(mask),)) for tag, mask in masks.items())]
    made.write([(condition, texts) for condition in conditions for texts in sources.values()], progress)
    tables = [
        made.described(condition, texts, tag, identify).assign(off=condition.name, source=tag, target=tag, prompt=texts)
        for condition in conditions
        for tag, texts in sources.items()
    ]
    return pd.concat(tables, ignore_index=True)
