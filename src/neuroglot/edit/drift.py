"""Steer only when the model drifts: a direction is added to states that lie too far from the language wanted.

Unlike a constant, it leaves text in the wanted language nearly as it was (conditional activation steering; Lee et al.
2024, *Programming Refusal with Conditional Activation Steering*).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuroglot.edit.interventions import Chosen, Intervention, Values
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.hooks import observe_residual
from neuroglot.models.architecture.sites import Site
from neuroglot.models.fitting import fitting_batches
from neuroglot.models.model import Model

__all__ = ["AddOnDrift", "projections", "thresholds"]


@dataclass(frozen=True, eq=False)
class AddOnDrift(Intervention):
    """Add a multiple of given values to the states of the residual stream whose projection is below a threshold.

    The state of a token is what attention has made of the last tokens, so it tells the language that they are in. A
    step acts on a token by that token's own state alone. So it is the same with and without a key-value cache, and for
    each row of a batch.

    Attributes:
        values: (L, width) what is added, such as `recording.language_difference("zh", "residual")`.
        probe: (L, width) the direction on which states are projected, layer by layer; larger is nearer to the language.
        threshold: (L,) below which a state has drifted; see `thresholds`.
        strength: the multiple.

    Raises:
        NeuroglotError: another site, or a probe or a threshold of another shape, or that is no number.
    """

    values: Values
    probe: Float[Tensor, "layers width"]
    threshold: Float[Tensor, " layers"]
    strength: float = 1.0
    site: Site = field(default="residual", kw_only=True)

    def __post_init__(self) -> None:
        if self.site != "residual":
            raise NeuroglotError(f"Drift is seen in the residual stream, so the site is residual, not {self.site!r}.")
        if self.probe.shape != self.neurons.shape or self.threshold.shape != self.neurons.shape[:1]:
            shape = " × ".join(map(str, self.neurons.shape))
            raise NeuroglotError(f"The probe must be {shape} numbers, and the threshold {len(self.neurons)}.")
        if not bool(self.probe.isfinite().all() and self.threshold.isfinite().all()):
            raise NeuroglotError("The probe or the threshold has entries that are not numbers; give finite ones.")

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """The sum, of a state that has drifted."""
        return current + given

    def gate(self, layer: int) -> Callable[[Tensor], Tensor]:
        """Which states have drifted."""
        probe, threshold = self.probe[layer], self.threshold[layer]

        def drifted(states: Tensor) -> Tensor:
            nonlocal probe, threshold
            probe, threshold = probe.to(states.device, torch.float32), threshold.to(states.device, torch.float32)
            return states.float() @ probe < threshold

        return drifted


@torch.inference_mode()
def projections(
    model: Model, blocks: Int[Tensor, "blocks block"], probe: Float[Tensor, "layers width"]
) -> Float64[Tensor, "tokens layers"]:
    """The projection of every token's state on a direction, after every layer; the first token of a block is left out.

    Args:
        model: intact.
        blocks: of text, as `perplexity` reads it.
        probe: a direction after each layer.
    """
    model.check_state(edited=False)
    direction = probe.to(model.device, torch.float32)
    first = max(1, len(model.begin))

    def projected(part: slice) -> Tensor:
        found: dict[int, Tensor] = {}

        def read(layer: int, states: Tensor) -> None:
            along = states[:, first:].float() @ direction[layer].to(states.device)
            found[layer] = along.flatten().to("cpu", torch.float64)

        with observe_residual(model.ffns, read):
            model.hidden_states(blocks[part])
        return torch.stack([found[layer] for layer in range(model.layers)], 1)

    return torch.cat([found for _, found in fitting_batches(model, blocks, None, projected)])


def thresholds(found: Sequence[Float64[Tensor, "_ layers"]], false_alarms: float) -> Float64[Tensor, " layers"]:
    """Below what a state has drifted, after every layer, so that text in a language wanted seldom does.

    Args:
        found: the `projections` of text in each of the languages wanted.
        false_alarms: the share of the tokens of each of them that lie below, at most; from 0 to 1.

    Raises:
        NeuroglotError: the share is not one, or there is no text.
    """
    if not 0 <= false_alarms < 1:
        raise NeuroglotError(f"The share of false alarms is from 0 to below 1, not {false_alarms:g}.")
    if not found or not all(map(len, found)):
        raise NeuroglotError("A threshold needs text in the languages wanted; give some.")
    # the token at that place is the first that is not below
    parts = [each.sort(0).values[int(false_alarms * len(each))] for each in found]
    return torch.stack(parts).amin(0)
