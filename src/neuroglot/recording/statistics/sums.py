"""What is kept of an activation the moment it exists.

A statistic reduces the activations of a batch, on the device where they are, into sums that do not grow with the text.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from neuroglot.artifacts.recording import RESIDUAL
from neuroglot.artifacts.widths import padded
from neuroglot.models.architecture.ffn import FFN
from neuroglot.recording.statistics.reductions import SUMS, Values, sum_states, sum_tokens

__all__ = ["STATISTICS", "Statistic", "StreamSums", "Sums"]

STATISTICS = (*SUMS, RESIDUAL)
"""What a recording and samples can hold: of every neuron, and of the stream."""


class Statistic(ABC):
    """Sums over tokens, of every layer."""

    @abstractmethod
    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Add one layer of a batch. Only tokens that count are given: no BOS, no padding."""

    @abstractmethod
    def flush(self) -> dict[str, Tensor]:
        """What the recording calls them → the sums so far, (L, …) on the CPU; they start again from zero."""


class Sums(Statistic):
    """Sums of every neuron's own values: any of `SUMS`, together, since that reads each activation once.

    Counts are int64 and exact; the others are added in float64.
    """

    def __init__(self, ffns: Sequence[FFN], names: Sequence[str]):
        self.names = [name for name in names if name in SUMS]
        self._widths = [ffn.neurons for ffn in ffns]
        self._totals: list[list[Tensor] | None] = [None] * len(ffns)

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Add one layer of a batch."""
        self.add_part(layer, slice(0, self._widths[layer]), activation, hidden)

    def add_part(self, layer: int, part: slice, activation: Values, hidden: Values) -> None:
        """Add some of a layer's neurons, on tokens on which the others are 0, such as those that reach an expert."""
        sums, before = sum_tokens(activation, hidden, self.names), self._totals[layer]
        if before is not None:
            for total, each in zip(before, sums, strict=True):
                total[part] += each
        elif part == slice(0, self._widths[layer]):
            self._totals[layer] = sums
        else:
            self._totals[layer] = [_placed(each, part, self._widths[layer]) for each in sums]

    def flush(self) -> dict[str, Tensor]:
        """The totals so far, each (L, N), 0 beyond a layer's width."""
        layers = [totals for totals in self._totals if totals is not None]
        self._totals = [None] * len(self._totals)
        return {name: padded([sums[i].cpu() for sums in layers]) for i, name in enumerate(self.names)}


def _placed(sums: Tensor, part: slice, width: int) -> Tensor:
    """The sums of all neurons of a layer, where those of the others are 0."""
    everything = sums.new_zeros(width)
    everything[part] = sums
    return everything


class StreamSums:
    """Sums of the residual stream that leaves every layer, in float64."""

    def __init__(self, layers: int):
        self._totals: list[Tensor | None] = [None] * layers

    def add(self, layer: int, states: Values) -> None:
        """Add one layer of a batch. Only tokens that count are given: no BOS, no padding."""
        sums, before = sum_states(states), self._totals[layer]
        self._totals[layer] = sums if before is None else before.add_(sums)

    def flush(self) -> dict[str, Tensor]:
        """The totals so far, (L, width); they start again from zero."""
        totals = [sums.cpu() for sums in self._totals if sums is not None]
        self._totals = [None] * len(self._totals)
        return {RESIDUAL: torch.stack(totals)}
