"""What of a model to keep for one language: tokens, neurons and attention heads under one budget."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int64
from pydantic import BaseModel, Field
from torch import Tensor

from neuroglot.artifacts.widths import padded
from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.models.architecture.head_groups import HeadGroups, head_groups
from neuroglot.models.model import Model
from neuroglot.progress import status
from neuroglot.pruning.budget import Split, magnitudes, neurons_within, random_like, splits
from neuroglot.pruning.checkpoint import cut, may_gain_biases
from neuroglot.pruning.compensation import FEW_RIDGES, RIDGES, Change, compensated
from neuroglot.pruning.heads import HeadCut, cheapest_heads, random_heads, refitted_heads
from neuroglot.pruning.moments import blocks_for_moments, hidden_moments
from neuroglot.pruning.saliences import keep_within, removal_order
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import TokenRanking, expected_counts, language_counts, row_parameters

__all__ = ["Fit", "Plan", "ShrinkSettings", "groups_of", "plan_cut"]

MOST = 0.95  # of a layer's neurons that may go, below the fewest that any budget leaves
EXPECTED = 4_096  # tokens on which tokens that did not occur are ranked
Keep = Bool[Tensor, "layers neurons"]
Heads = Bool[Tensor, "attentions heads"]
Ids = Int64[np.ndarray, " kept"]


class ShrinkSettings(BaseModel):
    """How a model is made smaller."""

    share: float = Field(0.5, gt=0, lt=1)
    """Of all parameters, at most."""
    tokens: int = Field(20_000, ge=1)
    """Fit what is left on so many tokens of the text."""
    characters: int = Field(50_000, ge=1)
    """Measure on so many held-out characters."""
    even: bool = True
    """Keep equally many neurons in every layer, so that plain transformers opens the result."""
    salience: Literal["magnitude", "loss"] = "magnitude"
    """Which neurons go: those that write least, or those that the re-fitted layer misses least (surgeon's order)."""
    heads: bool = True
    """Try fewer attention heads, too, where the config can say how many there are."""
    heal: int = Field(0, ge=0)
    """Train what is left on so many tokens of the text, with the intact model as teacher."""
    learning_rate: float = Field(2e-4, gt=0)
    """The highest of the healing."""
    distil: float = Field(0.5, ge=0, le=1)
    """The teacher's share of the loss."""
    block: int = Field(512, ge=8)
    """Tokens a block of the healing, as far as the model reads so many."""
    batch: int = Field(16, ge=1)
    """Blocks a step of the healing."""
    at_once: int = Field(8, ge=1)
    """Blocks a forward pass of the healing."""
    save_every: int = Field(500, ge=0)
    """Keep the state of the healing after so many steps; 0 never."""
    tasks: list[str] = Field(default_factory=list)
    """Score both models on these tasks of the lm-evaluation-harness."""
    seed: int = 0
    """Of the random baseline and of the order of the healing."""


@dataclass(frozen=True)
class Fit:
    """What the last projections of a cut model are given.

    Attributes:
        neurons: by layer; None for nothing.
        heads: of the attentions; None where all heads stay.
    """

    neurons: Sequence[Change | None] | None = None
    heads: HeadCut | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be kept.

    Attributes:
        ids: the tokens that stay.
        keep: the neurons that stay (L, N).
        heads: the attention heads that stay (attentions, H); None for all.
        tried: what was measured to choose: tokens, neurons, query heads a layer, and bits a character of the re-fitted
            model on fitted text.
    """

    ids: Ids
    keep: Keep
    heads: Heads | None
    tried: list[dict[str, float]]

    def prunes(self, model: Model) -> bool:
        """Whether anything but tokens goes."""
        return self.heads is not None or not bool(self.keep[model.exists].all())

    def random(self, model: Model, seed: int) -> "Plan":
        """As many random neurons and heads of each layer."""
        whole = groups_of(model) if self.heads is not None else None
        heads = None if self.heads is None or whole is None else random_heads(self.heads, whole, seed)
        return replace(self, keep=random_like(self.keep, model.exists, seed), heads=heads)

    def fit(
        self, model: Model, text: Corpus, language: str, tokens: int, *, ridges: Sequence[float] = RIDGES,
        progress: bool = False,
    ) -> Fit:  # fmt: skip
        """The re-fit of what is left, on the text's first tokens."""
        neurons = heads = None
        if not bool(self.keep[model.exists].all()):
            neurons = compensated(model, self.keep, "refit", language, text=text, tokens=tokens,
                                  intercept=may_gain_biases(model, self.keep), ridges=ridges,
                                  progress=progress)  # fmt: skip
        if self.heads is not None:
            blocks = blocks_for_moments(model, text[language], language, tokens=tokens)
            heads = refitted_heads(model, self.heads, blocks, language, ridges=ridges, progress=progress)
        return Fit(neurons, heads)

    @contextmanager
    def cut(self, model: Model, fit: Fit | None = None) -> Iterator[Model]:
        """The model with nothing else, inside the block; see `pruning.checkpoint.cut`."""
        left = HeadCut(self.heads) if self.heads is not None else None
        with cut(model, self.keep, fit.neurons if fit else None, self.ids, fit.heads if fit else left):
            yield model


def groups_of(model: Model) -> HeadGroups | None:
    """The heads of every attention, where they can be taken out; None elsewhere."""
    try:
        return head_groups(model.network, model.attentions)
    except NeuroglotError:  # it has no attention
        return None


class _Trial:
    """Plans, re-fitted on a little text and measured on its end."""

    def __init__(self, model: Model, text: Corpus, language: str, settings: ShrinkSettings, progress: bool):
        self.model, self.text, self.language, self.progress = model, text, language, progress
        self.tokens, self.characters = settings.tokens // 4, settings.characters // 2
        self.end = _end(text[language], self.characters)
        self.tried: list[dict[str, float]] = []

    def bits(self, plan: Plan) -> float:
        """A character."""
        fit = None
        if plan.prunes(self.model):
            fit = plan.fit(self.model, self.text, self.language, self.tokens, ridges=FEW_RIDGES, progress=self.progress)
        said = {"tokens": len(plan.ids), "neurons": int(plan.keep.sum())}
        if plan.heads is not None:
            said["heads"] = int(plan.heads[0].sum())
        doing = f"measuring {', '.join(f'{count:,} {name}' for name, count in said.items())}"
        with status(doing, self.progress), plan.cut(self.model, fit):
            found = bits_per_character(self.model, self.end, self.language, characters=self.characters)
        self.tried.append({**said, "bits": found})
        return found


def plan_cut(model: Model, text: Corpus, language: str, settings: ShrinkSettings, *, progress: bool = True) -> Plan:
    """What to keep: of the ways to share the budget the one whose re-fit is the best.

    First it is shared between tokens and neurons. Then heads go, those that the re-fitted layers miss least, and
    neurons or tokens take their place, as long as that is better.

    Arguments and errors are those of `shrink`.
    """
    documents = text[language]
    with status("counting tokens", progress):
        ranking = TokenRanking(model, language_counts(model, documents, language))
    ways = splits(model, settings.share, ranking.used, ranking.least, language)
    if ways[0].tokens > ranking.used:
        with status("ranking tokens that did not occur", progress):
            blocks = blocks_for_moments(model, documents, language, tokens=min(settings.tokens, EXPECTED))
            ranking.extend(expected_counts(model, blocks))
    total = int(model.exists.sum())
    if ways[0].neurons == total and len(ways) == 1:
        return Plan(ranking.within(ways[0].tokens), model.exists, None, [])
    neurons_of = _by_salience(model, documents, language, settings, progress)

    def planned(tokens: int, neurons: int, heads: Heads | None = None) -> Plan:
        return Plan(ranking.within(tokens), neurons_of(neurons), heads, trial.tried)

    trial = _Trial(model, text, language, settings, progress)
    plans = [planned(way.tokens, way.neurons) for way in ways]
    whole = groups_of(model) if settings.heads else None
    if len(plans) == 1 and whole is None:
        return plans[0]
    measured = [trial.bits(plan) for plan in plans]
    bits, best = min(zip(measured, range(len(ways)), strict=True))
    return plans[best] if whole is None else _fewer_heads(trial, plans[best], bits, ways[best], whole, planned)


def _by_salience(
    model: Model, documents: Documents, language: str, settings: ShrinkSettings, progress: bool
) -> Callable[[int], Keep]:
    """A function from how many neurons stay to which."""
    moments = hidden_moments(model, documents, language, tokens=settings.tokens, progress=progress)
    if settings.salience == "magnitude":
        scores = magnitudes(model, moments)
    else:
        orders = [removal_order(ffn.down_columns, of, most=MOST) for ffn, of in zip(model.ffns, moments, strict=True)]
        if not settings.even:
            return partial(keep_within, orders)
        scores = padded([order.places() for order in orders])
    return lambda count: neurons_within(scores, model.widths, count, even=settings.even)


def _fewer_heads(
    trial: _Trial, plan: Plan, bits: float, way: Split, whole: HeadGroups, planned: Callable[[int, int, Heads], Plan]
) -> Plan:
    """The plan with fewer heads, and neurons or tokens in their place, if one is better; then the next one is tried."""
    model = trial.model
    stream = model.attentions[0].weight.shape[0]
    total = int(model.exists.sum())
    per_neuron, per_token = size(model.network).ffn_parameters / total, row_parameters(model)
    blocks = blocks_for_moments(model, trial.text[trial.language], trial.language, tokens=trial.tokens)
    for fewer in sorted(whole.smaller(), key=lambda each: -each.parameters(stream)):
        freed = len(model.attentions) * (whole.parameters(stream) - fewer.parameters(stream))
        neurons = min(total, int(way.neurons + freed / per_neuron))
        tokens = way.tokens + int((freed - (neurons - way.neurons) * per_neuron) / per_token)
        heads = cheapest_heads(model, blocks, whole, fewer, trial.language, progress=trial.progress)
        other = planned(min(tokens, model.vocabulary), neurons, heads)
        found = trial.bits(other)
        if found >= bits:
            break
        plan, bits = other, found
    return plan


def _end(documents: Any, characters: int) -> list[str]:
    """The last documents of a text, so many characters at least."""
    found: list[str] = []
    for document in reversed(list(documents)):
        found.append(document)
        characters -= len(document) + 1
        if characters <= 0:
            break
    return found[::-1]
