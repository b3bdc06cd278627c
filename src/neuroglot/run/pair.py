"""Two runs of one shape, such as a base model's and its chat model's: do languages keep their neurons?"""

from pathlib import Path

import pandas as pd
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import check_precision, origin
from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Intervention, intervene
from neuroglot.edit.routing import Rerouting
from neuroglot.edit.steering import steer
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.comparison import ALL, Ablation, Comparison, measure_conditions
from neuroglot.evaluate.likelihood.lens import owner_mass
from neuroglot.evaluate.likelihood.perplexity import check_held_out, held_out_blocks
from neuroglot.identify.overlap import compare as agreement
from neuroglot.identify.random_neurons import random
from neuroglot.identify.ranking import rank
from neuroglot.identify.registry import find
from neuroglot.identify.selection import Evidence, check_budget, select_top
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.progress import progress_bar
from neuroglot.run.directory import Run
from neuroglot.stats import mean_interval
from neuroglot.storage.tables import save_table
from neuroglot.tokens.counts import TokenLanguages, token_counts

__all__ = ["BASE", "PairSettings", "check_pair", "pair_runs"]

BASE = "base"
"""The part of the evidence that is the first run's."""


class PairSettings(BaseModel):
    """How two runs are compared."""

    method: str = "margin"
    """Which neurons."""
    budget: float = Field(0.01, gt=0, le=1)
    """Neurons a language, as a share of all."""
    tokens: int = Field(100_000, ge=1)
    """At most so many held-out tokens of each language."""
    block: int | None = Field(None, ge=2)
    """Tokens a block; by default as `perplexity` has it."""
    seeds: int = Field(3, ge=1)
    """Rows of random neurons."""
    steer: int = Field(2_000, ge=0)
    """Tokens of each language's text on which steering is measured; 0 leaves it out."""


def pair_runs(
    base: Run, tuned: Run, model: Model, settings: PairSettings, *, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the neurons of two runs, and what both sets do in the second run's model.

    Everything is measured in the second model, on the text that its run held out: its own sets of neurons, the first
    run's, and random ones of the same number are ablated; and each language's are raised to their mean (of the second
    recording) while the model reads text in the other languages. Steering is read off the probability of the raised
    language's own tokens, which needs no detector.

    Args:
        base: such as the base model's run.
        tuned: such as the chat model's.
        model: the second run's.
        settings: of the comparison.
        progress: show bars.

    Returns:
        A row a language: what `identify.overlap.compare` says of both sets (first: the base's); own, base and random
        (nats that are lost on target when they are ablated, random as the mean of its seeds); difference (own − base,
        on the same blocks), low, high and p; and steer_intact, steer_own, steer_base and steer_random with the ends
        of their intervals. And a row a layer: neurons of any language in both, in the base only, in the tuned only.
        Both are kept in the second run as tables/pair.csv and pair-layers.csv.

    Raises:
        NeuroglotError: the runs are of models of different shapes, or read in different precision; they have fewer
            than two languages in common, or the method needs more than a recording.
    """
    tuned.check(model)
    read, held_out = check_pair(base, tuned, model, settings)
    first, second, tags = base.recording, tuned.recording, held_out.languages
    sets = {part: _top(recording.select(tags), settings) for part, recording in ((BASE, first), (ALL, second))}
    draws = {f"seed {seed}" if seed else ALL: random(sets[ALL], seed=seed) for seed in range(settings.seeds)}
    conditions = [Ablation(settings.method, settings.budget, part, each) for part, each in sets.items()]
    conditions += [Ablation("random", settings.budget, part, each) for part, each in draws.items()]
    result = measure_conditions(
        model, held_out, conditions, tokens=settings.tokens, block=settings.block,
        directory=tuned.path / "pair" / "cells", progress=progress,
    )  # fmt: skip
    result.save(tuned.path / "pair" / "comparison.json")
    table = agreement(sets[BASE], sets[ALL]).join(_ablated(result, settings))
    if settings.steer:
        owners = TokenLanguages.of(token_counts(model, read, 200_000), tags)
        choices = {"own": sets[ALL], "base": sets[BASE], "random": draws[ALL]}
        table = table.join(_steered(model, held_out, second, choices, owners, settings, progress))
    layers = _layers(sets[BASE], sets[ALL])
    save_table(tuned.path / "tables" / "pair.csv", table.reset_index())
    save_table(tuned.path / "tables" / "pair-layers.csv", layers.reset_index())
    with tuned.changing() as manifest:
        manifest.pair = settings.model_dump() | {"base": str(Path(base.path).resolve())}
    return table, layers


def check_pair(base: Run, tuned: Run, reader: Model | TextReader, settings: PairSettings) -> tuple[Corpus, Corpus]:
    """The text of the languages in common, recorded and held out, as far as it can be refused without weights.

    Raises:
        NeuroglotError: see `pair_runs`; or a language's held-out text is too short.
    """
    first, second = base.recording, tuned.recording
    if first.widths != second.widths:
        raise NeuroglotError(
            f"{base.path} is of {first.layers} × {first.neurons} neurons and {tuned.path} of {second.layers} × "
            f"{second.neurons}, so no neuron of one is one of the other; compare models of one shape."
        )
    made = [recording.provenance for recording in (first, second)]
    if made[0] is not None and made[1] is not None:
        check_precision(made[0].dtype, made[1].dtype, (str(base.path), str(tuned.path)))
    tags = [tag for tag in first.languages if tag in second.languages]
    if len(tags) < 2:
        raise NeuroglotError(
            f"{base.path} and {tuned.path} have fewer than two languages in common; record them alike."
        )
    check_budget(settings.budget, second.widths)
    if more := [need for need in find(settings.method).evidence if need != "seed"]:
        raise NeuroglotError(
            f"{settings.method} needs {', '.join(more)}, and two runs are compared by their recordings; choose another."
        )
    read, held_out = (part.select(tags) for part in tuned.manifest.text.load())
    check_held_out(
        reader, held_out, tokens=min(settings.tokens, settings.steer or settings.tokens), block=settings.block
    )
    return read, held_out


def _top(recording: Recording, settings: PairSettings) -> NeuronSet:
    scores = rank(settings.method, Evidence(recording))
    about = {"method": settings.method, "budget": settings.budget, **origin(recording)}
    return select_top(scores, recording.languages, settings.budget, about, recording.widths)


def _ablated(result: Comparison, settings: PairSettings) -> pd.DataFrame:
    """What is lost on target by the sets of either run, and whether they differ."""
    name = f"{settings.method} {settings.budget:g}"
    effects = {part: result.effects(f"{name} {part}").diagonal().tolist() for part in (ALL, BASE)}
    draws = [each for each, what in result.conditions.items() if what["method"] == "random"]
    drawn = torch.stack([result.effects(each).diagonal() for each in draws]).mean(0).tolist()
    rows = []
    for k, tag in enumerate(result.languages):
        found = result.contrast_sets(f"{name} {ALL}", f"{name} {BASE}", tag)
        rows.append(
            {"own": effects[ALL][k], "base": effects[BASE][k], "random": drawn[k], "difference": found.difference,
             "low": found.low, "high": found.high, "p": found.p}
        )  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(result.languages, name="language"))


def _steered(
    model: Model,
    held_out: Corpus,
    recording: Recording,
    choices: dict[str, NeuronSet],
    owners: TokenLanguages,
    settings: PairSettings,
    progress: bool,
) -> pd.DataFrame:
    """The probability of each language's own tokens on the others' text, intact and with its neurons raised."""
    blocks = held_out_blocks(model, held_out, tokens=settings.steer, block=settings.block)
    total = len(blocks) * (1 + len(choices))
    rows = []
    with progress_bar("steering", total, unit="conditions", shown=progress) as advance:
        intact = {tag: owner_mass(model, piece, owners, model.batch_tokens) for tag, piece in blocks.items()}
        advance(len(blocks), "intact")
        for k, target in enumerate(blocks):
            others = torch.cat([piece for tag, piece in blocks.items() if tag != target])
            before = torch.cat([mass for tag, mass in intact.items() if tag != target])
            row = _with_ends("steer_intact", before[:, k])
            for name, sets in choices.items():
                steps: tuple[Intervention | Rerouting, ...] = ()
                if bool(sets[target].any()):
                    steps = steer(recording, sets, target, method="raise").steps
                with intervene(model, *steps):
                    mass = owner_mass(model, others, owners, model.batch_tokens)
                row |= _with_ends(f"steer_{name}", mass[:, k])
                advance(1, target)
            rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(list(blocks), name="language"))


def _with_ends(name: str, values: Tensor) -> dict[str, float]:
    low, high = mean_interval(values)
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _layers(base: NeuronSet, tuned: NeuronSet) -> pd.DataFrame:
    """How many neurons of any language each layer has, language by language, in both sets and in one only."""
    one, two = base.mask, tuned.mask
    counts = {"both": one & two, "base": one & ~two, "tuned": two & ~one}
    table = pd.DataFrame({name: mask.sum((0, 2)).tolist() for name, mask in counts.items()})
    table.index = pd.RangeIndex(1, len(table) + 1, name="layer")
    return table
