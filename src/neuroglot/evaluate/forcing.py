"""Language forcing: does a model asked in one language answer in another, when its neurons say so?

Every answer belongs to a *cell*: an arm (what is done to the model), the source language of the prompts and the target
language of the answers. A cell's answers depend on the recipe, the prompts and how they are continued, and are kept
under a digest of just these: a rerun reads them, and so does another experiment that needs the same cell.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, Field

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.answers import answer_nll, describe, summary
from neuroglot.evaluate.generation import BATCH, generate
from neuroglot.evaluate.language import Identifier
from neuroglot.ffn import Site
from neuroglot.files import read_json, save_text
from neuroglot.identify import random
from neuroglot.interventions import Deactivate, When
from neuroglot.languages import language_tag
from neuroglot.model import Model
from neuroglot.neurons import NeuronSet
from neuroglot.progress import token_progress
from neuroglot.recording import Recording
from neuroglot.steering import Method, Recipe, steer

__all__ = ["ARMS", "Generation", "Steering", "deactivated", "force", "grid", "matrix", "repair", "search"]

Prompts = Mapping[str, Sequence[str]]

Arm = Literal["intact", "source off", "raised", "both", "random"]
ARMS: tuple[Arm, ...] = ("intact", "source off", "raised", "both", "random")
"""Nothing; the source's neurons off; the target's changed; both; both with random neurons of the same numbers."""


class Generation(BaseModel, frozen=True):
    """How prompts are continued; see `generate`."""

    tokens: int = Field(64, ge=1)
    """New tokens at most."""
    repetition_penalty: float = Field(1.1, gt=0)
    """As the LAPE paper has it (§3.1)."""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """When sampling."""
    seed: int = 0
    """Of the sampling."""
    batch: int = Field(BATCH, ge=1)
    """Prompts a forward pass."""
    chat: bool = False
    """Use the tokenizer's chat template."""


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
    identify = Identifier([*targets, *sources])
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


def matrix(answers: pd.DataFrame, arm: Arm, rate: str = "on_target") -> pd.DataFrame:
    """A rate by source (rows) and target (columns) for one arm of what `force` gives."""
    table = answers[answers["arm"] == arm]
    if table.empty:
        raise NeuroglotError(f"Nothing was measured with {arm!r}; arms are {', '.join(answers['arm'].unique())}.")
    wide = table.astype({rate: float}).pivot_table(rate, "source", "target", sort=False)
    return wide.reindex(index=table["source"].unique(), columns=table["target"].unique())


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
    identify, made = Identifier(list(sources)), _Answers(model, generation or Generation(), directory)
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


def repair(answers: pd.DataFrame, arm: Arm = "raised", *, asked: bool = False) -> pd.DataFrame:
    """Off-target repair (Tang et al. 2024, Table 4): prompts that want an answer in a language, and do not get it.

    Args:
        answers: of `force`, with the arms `intact` and `arm`.
        arm: the steered one.
        asked: whether every prompt says in words which language it wants (`asking`). Otherwise a prompt wants the
            language it is written in, and cells of other targets do not count.

    Returns:
        A row a language: prompts; intact and steered, the share answered in it; off_target, intact answers told to be
        in another language; repaired, those of them that are in it when steered; broken, those in it before and
        not after; and the perplexity and the degenerate share of both.
    """
    wanting = answers if asked else answers[answers["source"] == answers["target"]]
    rows = {}
    for tag, table in wanting.groupby("target", sort=False):
        parts = [table[table["arm"] == name].reset_index(drop=True) for name in ("intact", arm)]
        if any(part.empty for part in parts):
            raise NeuroglotError(f"Repair compares the arms intact and {arm}, and one of them was not measured.")
        before, after = parts
        off = ~before["on_target"] & (before["language"] != "")
        rates = [summary(part, ["target"]).iloc[0] for part in parts]
        rows[tag] = {
            "prompts": len(before),
            "intact": before["on_target"].mean(),
            "steered": after["on_target"].mean(),
            "off_target": int(off.sum()),
            "repaired": int((off & after["on_target"]).sum()),
            "broken": int((before["on_target"] & ~after["on_target"]).sum()),
            "intact_perplexity": rates[0]["perplexity"],
            "steered_perplexity": rates[1]["perplexity"],
            "intact_degenerate": rates[0]["degenerate"],
            "steered_degenerate": rates[1]["degenerate"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("language")


def grid(
    layers: int,
    methods: Iterable[Method] = ("replace", "raise", "difference", "scale"),
    sites: Iterable[Site] = ("activation", "hidden"),
    strengths: Iterable[float] = (1.0, 2.0),
) -> list[Steering]:
    """What `search` tries by default: every method, site and strength, in all layers and in the last third.

    Scaling takes the strength plus one, since a factor of one changes nothing.
    """
    spans: list[tuple[int, ...] | None] = [None, tuple(range(layers - max(1, layers // 3), layers))]
    return [
        Steering(method=method, site=site, strength=strength + (method == "scale"), layers=span)
        for method in methods
        for site in sites
        for strength in strengths
        for span in spans
    ]


def search(
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    prompts: Prompts,
    settings: Sequence[Steering],
    *,
    targets: Sequence[str] | None = None,
    max_loss: float = 1.0,
    max_degenerate: float = 0.2,
    generation: Generation | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> tuple[Steering, pd.DataFrame]:
    """The setting with the best language accuracy at a bounded loss of fluency.

    Every setting is tried on the development half of the prompts (the first, third …), for every source → target pair
    of different languages with the source switched off; the one chosen is then measured on the other half. The measure
    of fluency is what the intact model writes when it is asked in the target language itself.

    Args:
        model: see `force`.
        recording: see `force`.
        neurons: see `force`.
        prompts: see `force`; they must include the targets.
        settings: those to try; see `grid`.
        targets: see `force`.
        max_loss: the perplexity of the answers may exceed the intact ones' by this share: 1 allows twice.
        max_degenerate: the share of degenerate answers may exceed the intact ones' by this.
        generation: see `force`.
        directory: see `force`.
        progress: see `force`.

    Returns:
        The setting chosen, and a table: a row a setting on the development half, then `reported`, the chosen one on the
        other half, and `intact` and `own`: intact answers asked in the source and in the target language, on that half.
        `within` says whether the bounds hold. If they hold nowhere, the setting with the fewest degenerate answers is
        chosen, and its `within` is False.

    Raises:
        NeuroglotError: no setting, too few prompts, or what `force` raises.
    """
    if not settings:
        raise NeuroglotError("There is no setting to try; see evaluate.grid.")
    wanted = [language_tag(tag) for tag in targets or neurons.languages]
    halves: list[dict[str, list[str]]] = [
        {language_tag(tag): list(texts)[part::2] for tag, texts in prompts.items()} for part in (0, 1)
    ]
    if missing := [tag for tag in wanted if tag not in halves[0]]:
        raise NeuroglotError(f"The measure of fluency needs prompts in {missing[0]} too; give some.")
    if len(halves[0]) < 2:
        raise NeuroglotError("Forcing is between languages: give prompts in at least two.")
    if not all(half[tag] for half in halves for tag in half):
        raise NeuroglotError("Half of the prompts develop and half report: give at least two in each language.")

    def measure(half: Prompts, arm: Arm, how: Steering | None, own: bool = False) -> pd.Series:
        tables = []
        for target in wanted:
            asked = {tag: texts for tag, texts in half.items() if (tag == target) is own}
            if asked:
                tables.append(
                    force(
                        model, recording, neurons, asked, targets=[target], how=how, arms=[arm], generation=generation,
                        directory=directory, progress=progress,
                    )
                )  # fmt: skip
        return summary(pd.concat(tables), ["arm"]).iloc[0]

    reference = [measure(half, "intact", None, own=True) for half in halves]

    def within(row: pd.Series, fluent: pd.Series) -> bool:
        return bool(
            row["perplexity"] <= (1 + max_loss) * fluent["perplexity"]
            and row["degenerate"] <= fluent["degenerate"] + max_degenerate
        )

    rows = []
    for how in settings:
        rates = measure(halves[0], "both", how)
        rows.append({"half": "development", "setting": how.words(), **rates, "within": within(rates, reference[0])})
    best = max(
        range(len(rows)),
        key=lambda i: (rows[i]["within"], rows[i]["accuracy"] if rows[i]["within"] else -rows[i]["degenerate"]),
    )
    chosen = settings[best]
    rates = measure(halves[1], "both", chosen)
    rows.append({"half": "reported", "setting": chosen.words(), **rates, "within": within(rates, reference[1])})
    rows.append({"half": "reported", "setting": "intact", **measure(halves[1], "intact", None), "within": True})
    rows.append({"half": "reported", "setting": "own", **reference[1], "within": True})
    table = pd.DataFrame(rows)
    table["perplexity"] = table["perplexity"].map(lambda value: value if math.isfinite(value) else math.inf)
    return chosen, table
