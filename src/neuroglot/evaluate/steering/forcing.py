"""Language forcing: does a model asked in one language answer in another, when its neurons say so?

Every answer belongs to a *cell*: an arm (what is done to the model), the source language of the prompts and the target
language of the answers. A cell's answers depend on the recipe, the prompts and how they are continued, and are kept
under a digest of just these: a rerun reads them, and so does another experiment that needs the same cell.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.interventions import Deactivate
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.steering import Method, steer
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import answer_nll, describe
from neuroglot.generation.engine import Generation
from neuroglot.generation.huggingface import generate
from neuroglot.identify.random_neurons import random
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.tags import language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.storage.atomic import read_json, save_text

__all__ = ["ARMS", "Steering", "deactivated", "force"]

Prompts = Mapping[str, Sequence[str]]

Arm = Literal["intact", "source off", "raised", "both", "random"]
ARMS: tuple[Arm, ...] = ("intact", "source off", "raised", "both", "random")
"""Nothing; the source's neurons off; the target's changed; both; both with random neurons of the same numbers."""


class Steering(BaseModel, frozen=True):
    """How the target is raised; see `steer`."""

    method: Method = "replace"
    """What is done to the target's neurons."""
    site: Site = "activation"
    """Where."""
    strength: float = 1.0
    """Times the mean (the factor, for scale)."""
    layers: tuple[int, ...] | None = None
    """From 0; all by default."""
    when: When = "both"
    """On which tokens."""

    def recipe(self, recording: Recording, neurons: NeuronSet, to: str | None, source: str | None) -> Recipe:
        """The recipe of one cell."""
        return steer(
            recording, neurons, to, source=source, method=self.method, site=self.site, strength=self.strength,
            layers=self.layers, when=self.when,
        )  # fmt: skip

    def words(self) -> str:
        """In a few words."""
        layers = "" if self.layers is None else f", {len(self.layers)} layers"
        when = "" if self.when == "both" else f", {self.when} tokens"
        return f"{self.method} × {self.strength:g} at {self.site}{layers}{when}"


def force(
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    prompts: Prompts,
    *,
    targets: Sequence[str] | None = None,
    how: Steering | None = None,
    arms: Sequence[Arm] = ARMS,
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
        arms: see `ARMS`. Where source and target are one language nothing is switched off.
        seeds: how many random draws the `random` arm has.
        generation: how prompts are continued.
        directory: keep finished cells here and go on with what is there.
        progress: show a bar.

    Returns:
        A row an answer: arm, seed, source, target, prompt and what `describe` says of it.

    Raises:
        NeuroglotError: the model is not the one recorded, a language is unknown to the recording or the neurons, no
            library tells a target, or there is no prompt.
    """
    how, generation = how or Steering(), generation or Generation()
    targets = [language_tag(tag) for tag in targets or neurons.languages]
    sources = {language_tag(tag): list(texts) for tag, texts in prompts.items()}
    identify = LanguageIdentifier([*targets, *sources])
    cells = []
    for arm in arms:
        for seed in range(seeds if arm == "random" else 1):
            chosen = random(neurons, seed=seed) if arm == "random" else neurons
            for source in sources:
                for target in targets:
                    recipe = _recipe(arm, recording, chosen, source, target, how)
                    if recipe is not None:
                        recipe.check(model)
                    cells.append((arm, seed, source, target, recipe))
    made = _Answers(model, generation, directory)
    tables = []
    with token_progress("answers", sum(len(sources[cell[2]]) for cell in cells), shown=progress) as advance:
        for arm, seed, source, target, recipe in cells:
            texts, likely = made.of(recipe, sources[source])
            table = describe(model, texts, target, identify, perplexity=False)
            table["nll"], table["tokens"] = [nll for nll, _ in likely], [count for _, count in likely]
            for place, (name, value) in enumerate(
                {"arm": arm, "seed": seed, "source": source, "target": target}.items()
            ):
                table.insert(place, name, value)
            table.insert(4, "prompt", sources[source])
            tables.append(table)
            advance(len(texts), f"{arm} {source} → {target}")
    if not tables:
        raise NeuroglotError("There is nothing to ask: give prompts, targets and arms.")
    return pd.concat(tables, ignore_index=True)


def _recipe(
    arm: Arm, recording: Recording, neurons: NeuronSet, source: str, target: str, how: Steering
) -> Recipe | None:
    off = None if source == target or source not in neurons.languages else source
    if arm == "source off":
        return None if off is None else how.recipe(recording, neurons, None, off)
    if arm in ("both", "random"):
        return how.recipe(recording, neurons, target, off)
    return how.recipe(recording, neurons, target, None) if arm == "raised" else None


class _Answers:
    """What the model writes under a recipe and how likely that is to it when intact, kept by what it depends on."""

    def __init__(self, model: Model, generation: Generation, directory: str | Path | None):
        self.model, self.generation = model, generation
        self.directory = None if directory is None else Path(directory)
        self.known: dict[str, dict[str, Any]] = {}

    def of(self, recipe: Recipe | None, prompts: Sequence[str]) -> tuple[list[str], list[tuple[float, int]]]:
        about = {
            "model": self.model.fingerprint,
            "dtype": str(self.model.network.dtype),
            "recipe": None if recipe is None else recipe.digest,
            "prompts": list(prompts),
            "generation": self.generation.model_dump(),
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
        if key not in self.known:
            self.known[key] = self._kept(key) or self._make(key, recipe, about)
        found = self.known[key]
        return found["answers"], [(nll, tokens) for nll, tokens in found["likely"]]

    def _kept(self, key: str) -> dict[str, Any] | None:
        kept = None if self.directory is None else read_json(self.directory / f"{key}.json")
        return kept if kept is not None and {"answers", "likely"} <= set(kept) else None

    def _make(self, key: str, recipe: Recipe | None, about: dict[str, Any]) -> dict[str, Any]:
        with nullcontext() if recipe is None else recipe.applied(self.model):
            answers = generate(self.model, about["prompts"], **self.generation.model_dump())
        made = {**about, "answers": answers, "likely": answer_nll(self.model, answers)}
        if self.directory is not None:
            save_text(self.directory / f"{key}.json", json.dumps(made, ensure_ascii=False, indent=1))
        return made


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
    recipes = {tag: Recipe([Deactivate(mask)], model.fingerprint) for tag, mask in masks.items()}
    tables = []
    with token_progress("answers", (1 + len(recipes)) * sum(map(len, sources.values())), shown=progress) as advance:
        for off, recipe in {"normal": None, **recipes}.items():
            for tag, texts in sources.items():
                answers, likely = made.of(recipe, texts)
                table = describe(model, answers, tag, identify, perplexity=False)
                table = table.assign(nll=[nll for nll, _ in likely], tokens=[count for _, count in likely])
                tables.append(table.assign(off=off, source=tag, target=tag, prompt=texts))
                advance(len(texts), f"{off} off, {tag}")
    return pd.concat(tables, ignore_index=True)
