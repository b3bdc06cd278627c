"""What is kept of an activation the moment it exists.

A statistic reduces the activations of a batch, on the device where they are, into sums that do not grow with the
text. `STATISTICS` lists those that a recording can hold; to add one, subclass `Statistic`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.ffn import FFN
from neuroglot.recording.reductions import count_positive, sum_tokens

__all__ = ["STATISTICS", "Statistic"]

Values = Float[Tensor, "batch tokens neurons"]


class Statistic(ABC):
    """One sum over tokens, for every layer.

    Attributes:
        name: what the recording calls it.
        dtype: of the result: int64 for counts, float64 for sums.
    """

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.float64

    def __init__(self, ffns: Sequence[FFN]):
        self.totals: list[Tensor | None] = [None] * len(ffns)

    @abstractmethod
    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """The sum over a batch's counted tokens, (…), of one layer."""

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Take in one layer of a batch. Only tokens that count are given: no BOS, no padding."""
        reduced = self.reduce(activation, hidden).to(self.dtype)
        total = self.totals[layer]
        self.totals[layer] = reduced if total is None else total.add_(reduced)

    def take(self) -> dict[str, Tensor]:
        """The totals so far by name, (L, …) on the CPU; the statistic starts again from zero."""
        result = torch.stack([total.cpu() for total in self.totals if total is not None])
        self.totals = [None] * len(self.totals)
        return {self.name: result}


class Active(Statistic):
    """On how many tokens the activation is above zero; exact."""

    name = "active"
    dtype = torch.int64

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """Count."""
        return count_positive(activation)


class Activation(Statistic):
    """The sum of the activation."""

    name = "activation"

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """Sum in float64."""
        return sum_tokens(activation)


class Hidden(Statistic):
    """The sum of what enters the down-projection."""

    name = "hidden"

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """Sum in float64."""
        return sum_tokens(hidden)


class Magnitude(Statistic):
    """The sum of the absolute value of what enters the down-projection."""

    name = "magnitude"

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """Sum in float64, as `Activation` does."""
        return sum_tokens(hidden, magnitude=True)


STATISTICS: dict[str, type[Statistic]] = {kind.name: kind for kind in (Active, Activation, Hidden, Magnitude)}
