"""Change which experts the router of a native mixture of experts chooses."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroglot.artifacts.recording import ROUTED, Recording
from neuroglot.edit.positions import When
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers

__all__ = ["DeactivateExperts", "FavourExperts", "Rerouting", "check_experts", "language_experts", "named_experts"]


@takes_numbers
def language_experts(recording: Recording, language: str, count: int | None = None) -> Bool[Tensor, "layers experts"]:
    """The experts of a native mixture of experts that a language is routed to more than the others are.

    Those whose share of the language's tokens is furthest above the mean of the other languages' shares.

    Args:
        recording: of the model.
        language: whose.
        count: at most so many a layer; by default as many as the router chooses for a token.

    Raises:
        NeuroglotError: there is no other language, or no router.
    """
    recording.check_recorded(ROUTED)
    apart = recording.language_difference(language, ROUTED)
    each = (recording.sum(ROUTED).sum(1).to(torch.float64) / recording.tokens).amax(1).round().long()
    ranks = apart.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (ranks < (each[:, None] if count is None else count)) & (apart > 0)


def named_experts(model: Model, pairs: Sequence[tuple[int, int]]) -> Bool[Tensor, "layers experts"]:
    """Experts by their numbers: layers from 1, as they are shown, and experts from 0.

    Raises:
        NeuroglotError: the model is dense, or has no such expert.
    """
    if not model.mixtures:
        raise NeuroglotError(f"{model.name} is dense, so there are no experts to name; deactivate its neurons instead.")
    chosen = torch.zeros(model.layers, max(mixture.experts for mixture in model.mixtures.values()), dtype=torch.bool)
    for layer, expert in pairs:
        mixture = model.mixtures.get(layer - 1)
        if mixture is None:
            have = ", ".join(str(number + 1) for number in model.mixtures)
            raise NeuroglotError(f"{model.name} has no router in layer {layer}; it has one in {have}.")
        if not 0 <= expert < mixture.experts:
            raise NeuroglotError(f"Layer {layer} has the experts 0 to {mixture.experts - 1}, and none is {expert}.")
        chosen[layer - 1, expert] = True
    return chosen


@dataclass(frozen=True, eq=False)
class Rerouting(ABC):
    """What to do to the router's logits of some experts. Subclasses say it in `added`.

    Attributes:
        experts: (L, E) bool, which experts; in layers without a router none.
    """

    experts: Bool[Tensor, "layers experts"]
    when: When = field(default="both", init=False)

    @property
    def units(self) -> Bool[Tensor, "layers experts"]:
        """What it changes, as other interventions say it."""
        return self.experts

    @property
    def site(self) -> Literal["router"]:
        """Where it acts, as other interventions say it."""
        return "router"

    @property
    @abstractmethod
    def added(self) -> float:
        """What is added to the logits of these experts, before any is chosen."""

    def off(self, layer: int) -> Bool[Tensor, " experts"]:
        """The experts of a layer that cannot be chosen at all."""
        return torch.zeros_like(self.experts[layer])

    def change(self, layer: int, experts: int) -> Callable[[Tensor], Tensor]:
        """What to put in the place of a layer's logits."""
        chosen = self.experts[layer, :experts]

        def changed(logits: Float[Tensor, "*tokens experts"]) -> Float[Tensor, "*tokens experts"]:
            return torch.where(chosen.to(logits.device), logits + self.added, logits)

        return changed


@dataclass(frozen=True, eq=False)
class DeactivateExperts(Rerouting):
    """Take experts out of the router's choice: their logits are −∞, so that each token reaches others in their place.

    A router that adds a bias of its own, or limits the choice to groups of experts, cannot choose them either. This
    removes an expert; `Deactivate` on its neurons leaves it chosen and makes it give nothing.
    """

    @property
    def added(self) -> float:
        """Minus infinity."""
        return -torch.inf

    def off(self, layer: int) -> Bool[Tensor, " experts"]:
        """All of them."""
        return self.experts[layer]


@dataclass(frozen=True, eq=False)
class FavourExperts(Rerouting):
    """Add a bonus to the router's logits of some experts, such as those of a language.

    Attributes:
        strength: what is added; below zero they are disfavoured.
        when: on which tokens, as in other interventions.
    """

    strength: float = 1.0
    when: When = "both"

    @property
    def added(self) -> float:
        """The bonus."""
        return self.strength


def check_experts(change: Rerouting, model: Model) -> None:
    """Refuse experts that are not a boolean (L, E) of this model.

    Raises:
        NeuroglotError: as said, or the model is no native mixture of experts, or the strength is no number.
    """
    if not model.mixtures:
        raise NeuroglotError(f"{model.name} is dense and has no router; deactivate its neurons instead.")
    shape = (model.layers, max(mixture.experts for mixture in model.mixtures.values()))
    experts = change.experts
    if not isinstance(experts, Tensor) or experts.dtype != torch.bool or tuple(experts.shape) != shape:
        raise NeuroglotError(f"experts must be a boolean tensor of {shape[0]} layers × {shape[1]} experts.")
    if change.when not in ("both", "prompt", "generated"):
        raise NeuroglotError(f"when is both, prompt or generated, not {change.when!r}.")
    for layer in experts.any(1).nonzero().flatten().tolist():
        mixture = model.mixtures.get(layer)
        if mixture is None or bool(experts[layer, mixture.experts :].any()):
            raise NeuroglotError(f"Layer {layer + 1} has no such expert; name experts of layers that have a router.")
        mixture.routing.check_left(change.off(layer)[: mixture.experts])
    if not torch.isfinite(torch.tensor(change.added)) and not isinstance(change, DeactivateExperts):
        raise NeuroglotError("The strength must be a finite number; to switch experts off use DeactivateExperts.")
