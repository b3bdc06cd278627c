"""What may keep a model from slipping into another language: ablation, a direction, a direction on drift, head rows."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from neuroglot.artifacts.recording import RESIDUAL, Recording
from neuroglot.edit.drift import AddOnDrift, projections, thresholds
from neuroglot.edit.interventions import Add, Deactivate, UnitChange
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.errors import NeuroglotError
from neuroglot.identify.lape import lape
from neuroglot.models.model import Model
from neuroglot.tokens.counts import TokenLanguages

__all__ = ["METHODS", "HeadRows", "Remedies", "Remedy"]

RemedyMethod = Literal["ablation", "direction", "drift", "head rows"]
METHODS: tuple[RemedyMethod, ...] = ("ablation", "direction", "drift", "head rows")
"""Neurons off; a constant added to the stream; the same only to states that drift; logits of tokens scaled."""

FRACTIONS = (0.005, 0.01, 0.02, 0.05)
"""Of all neurons, those that LAPE chooses, from which the ablated ones are taken."""
STRENGTHS = (0.125, 0.25, 0.5, 1.0)
DRIFT_STRENGTHS = (0.5, 1.0, 2.0, 4.0)
FACTORS = (0.9, 0.8, 0.5, 0.0)
FALSE_ALARMS = (0.02, 0.005)
"""Of the tokens of text in a language wanted, those that count as drifted, at most."""


@dataclass(frozen=True, eq=False)
class HeadRows:
    """The rows of the head that belong to some tokens, times a factor: what is done where nothing inside is known.

    Attributes:
        tokens: (V,) which.
        factor: of their logits, before any soft cap.
    """

    tokens: Bool[Tensor, " vocabulary"]
    factor: float

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """Put it in force inside the block. Embeddings that are tied to the head stay as they are."""
        head = model.network.get_output_embeddings()
        factors = torch.where(self.tokens, self.factor, 1.0).to(head.weight)
        handle = head.register_forward_hook(lambda _, inputs, logits: logits * factors)
        try:
            yield
        finally:
            handle.remove()

    @cached_property
    def digest(self) -> str:
        """Of what it does."""
        said = f"head rows {self.factor}".encode() + self.tokens.numpy().tobytes()
        return hashlib.sha256(said).hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class Remedy:
    """One thing to try.

    Attributes:
        method: which of `METHODS`.
        words: its setting; layers count from 1.
        change: what is done. Head rows are no recipe.
    """

    method: RemedyMethod
    words: str
    change: Recipe | HeadRows

    @property
    def digest(self) -> str:
        """Of what is done, and of a recipe to which model."""
        return self.change.digest

    def applied(self, model: Model) -> AbstractContextManager[None]:
        """Put it in force inside the block."""
        return self.change.applied(model)

    def on_every_token(self) -> "Remedy":
        """The same, whatever it acts on: prompts, generated tokens or both."""
        if isinstance(self.change, HeadRows):
            return self
        steps = [replace(step, when="both") for step in self.change.steps]
        return replace(self, change=Recipe(steps, self.change.fingerprint, self.change.about))


class Remedies:
    """What may be tried for one model.

    Args:
        model: intact.
        recording: of it, with `active` and `residual`.
        tokens_of: whose each token is.
        texts: blocks of text in each language wanted, on which a threshold of drift is found.
        wanted: languages that answers should be in.
        avoided: those that they slip into.

    Raises:
        NeuroglotError: the recording is of another model, or lacks a statistic or a language.
    """

    def __init__(
        self,
        model: Model,
        recording: Recording,
        tokens_of: TokenLanguages,
        texts: Mapping[str, Int[Tensor, "blocks block"]],
        wanted: Sequence[str],
        avoided: Sequence[str],
    ):
        if recording.provenance is None or recording.provenance.fingerprint != model.fingerprint:
            raise NeuroglotError(f"The recording is not of {model.name}; record that model.")
        if missing := [tag for tag in (*wanted, *avoided) if tag not in recording.languages]:
            raise NeuroglotError(f"The recording has no {missing[0]}; it has {', '.join(recording.languages)}.")
        self.model, self.recording, self.tokens_of, self.texts = model, recording, tokens_of, texts
        self.wanted, self.avoided = tuple(wanted), tuple(avoided)
        self._projections: dict[str, Tensor] = {}

    @cached_property
    def way(self) -> Float64[Tensor, "layers width"]:
        """From the languages avoided to those wanted, after every layer: the means of their means, less each other."""
        means = [
            torch.stack([self.recording.language_mean(tag, RESIDUAL) for tag in tags]).mean(0)
            for tags in (self.wanted, self.avoided)
        ]
        return means[0] - means[1]

    def threshold(self, false_alarms: float) -> Float64[Tensor, " layers"]:
        """Below which projection on the way a state has drifted."""
        return thresholds([self._projected(tag) for tag in self.wanted], false_alarms)

    def caught(self, false_alarms: float) -> Float64[Tensor, " layers"]:
        """Of text in the languages avoided, the share of tokens that count as drifted, after every layer."""
        below = self.threshold(false_alarms)
        return torch.stack([(self._projected(tag) < below).double().mean(0) for tag in self.avoided]).mean(0)

    def _projected(self, tag: str) -> Float64[Tensor, "tokens layers"]:
        if tag not in self._projections:
            self._projections[tag] = projections(self.model, self.texts[tag], self.way)
        return self._projections[tag]

    def all(self, methods: Sequence[str] = METHODS) -> list[Remedy]:
        """Every candidate of these methods, method by method."""
        makers = {
            "ablation": self._ablations, "direction": self._directions, "drift": self._drifts,
            "head rows": self._head_rows,
        }  # fmt: skip
        return [remedy for method in methods for remedy in makers[method]()]

    @cached_property
    def layers(self) -> list[int]:
        """Layers to act after: at a quarter, a half and three quarters of the depth. Not the first, for llama.cpp."""
        depth = self.recording.layers
        return sorted({min(max(1, depth * part // 4), depth - 1) for part in (1, 2, 3)})

    @cached_property
    def late_layers(self) -> list[int]:
        """Where drift is seen: half-way, where nearly all is caught first, and between that and the last layer."""
        depth, caught = self.recording.layers, self.caught(FALSE_ALARMS[0]).tolist()
        first = max(1, next(layer for layer, share in enumerate(caught) if share >= 0.95 * max(caught)))
        return sorted({min(spot, depth - 1) for spot in (depth // 2, first, (first + depth) // 2)})

    def _recipe(self, method: str, step: UnitChange, **about: Any) -> Recipe:
        assert self.recording.provenance is not None
        said: dict[str, Any] = {"model": self.recording.provenance.model, "made by": "fix", "method": method}
        said |= {"wanted": list(self.wanted), "avoided": list(self.avoided)}
        return Recipe([step], self.model.fingerprint, said | about)

    def _ablations(self) -> Iterator[Remedy]:
        seen: set[int] = set()
        for fraction in FRACTIONS:
            neurons = lape(self.recording, top_fraction=fraction)
            off = neurons.union(*self.avoided) & ~neurons.union(*self.wanted)
            count = int(off.sum())
            if count and count not in seen:
                seen.add(count)
                recipe = self._recipe("ablation", Deactivate(off), neurons="lape", top_fraction=fraction)
                yield Remedy("ablation", f"{count:,} neurons of {', '.join(self.avoided)} off", recipe)

    def _directions(self) -> Iterator[Remedy]:
        for layer in self.layers:
            for strength in STRENGTHS:
                step = Add(self._mask(layer), self.way, strength, site="residual")
                recipe = self._recipe("direction", step, layers=[layer], strength=strength)
                yield Remedy("direction", f"× {strength:g} after layer {layer + 1}", recipe)

    def _drifts(self) -> Iterator[Remedy]:
        parts: tuple[When, ...] = ("generated", "both")
        for layer, alarms, strength, when in product(self.late_layers, FALSE_ALARMS, DRIFT_STRENGTHS, parts):
            step = AddOnDrift(
                self._mask(layer), self.way, self.way, self.threshold(alarms), strength=strength, when=when
            )
            recipe = self._recipe(
                "drift", step, layers=[layer], strength=strength, false_alarms=alarms,
                caught=float(self.caught(alarms)[layer]),
            )  # fmt: skip
            tokens = "" if when == "both" else f", {when} tokens"
            yield Remedy(
                "drift", f"× {strength:g} after layer {layer + 1}, {100 * alarms:g} % false alarms{tokens}", recipe
            )

    def _head_rows(self) -> Iterator[Remedy]:
        owners = [self.tokens_of.languages.index(tag) for tag in self.avoided if tag in self.tokens_of.languages]
        tokens = torch.isin(self.tokens_of.owner, torch.tensor(owners, dtype=torch.int64))
        count = int(tokens.sum())
        for factor in FACTORS if count else ():
            yield Remedy("head rows", f"{count:,} tokens × {factor:g}", HeadRows(tokens, factor))

    def _mask(self, layer: int) -> Bool[Tensor, "layers width"]:
        mask = torch.zeros(self.way.shape, dtype=torch.bool)
        mask[layer] = True
        return mask
