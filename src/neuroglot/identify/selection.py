"""The neurons that score highest: one choice for every method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.artifacts.widths import stated, within
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import takes_numbers

__all__ = ["Evidence", "Scores", "check_budget", "select_top"]

Scores = Float64[Tensor, "languages layers neurons"]


NEVER = -math.inf


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured of a model, for the methods to judge by.

    Attributes:
        recording: K languages; each method says which statistics it needs.
        samples: of the same languages in the same order, for key regions.
        labels: which expert each neuron belongs to, for expert frequency.
        rates: how much tuning on each language changed each neuron (`variation_rates`), for parameter variation.
        seed: of the random ranking.
    """

    recording: Recording
    samples: Samples | None = None
    labels: Int64[Tensor, "layers neurons"] | None = None
    rates: Float64[Tensor, "languages layers neurons"] | None = None
    seed: int = 0


def check_budget(share: float, widths: Sequence[int]) -> None:
    """Refuse a share of all neurons that is not one neuron at least, and all at most.

    Raises:
        NeuroglotError: as said.
    """
    if not 0 < share <= 1 or round(share * sum(widths)) < 1:
        raise NeuroglotError(
            f"A budget of {share:g} of {sum(widths):,} neurons is no number from one to all; choose another."
        )


@takes_numbers
def select_top(
    scores: Scores,
    languages: tuple[str, ...],
    share: float,
    about: Mapping[str, Any] | None = None,
    widths: Sequence[int] | None = None,
) -> NeuronSet:
    """The `round(share · all)` neurons that score highest for each language; of equal ones the first.

    A language for which fewer have a score above −∞ gets fewer. With `widths`, only what lies within a layer's counts.

    Raises:
        NeuroglotError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise NeuroglotError(f"A budget is a share of all units, above 0 and at most 1, not {share:g}.")
    if widths is not None:
        scores, about = within(scores, widths), {**(about or {}), **stated(widths)}
    flat, count = scores.flatten(1), scores[0].numel() if widths is None else sum(widths)
    order = flat.sort(dim=1, descending=True, stable=True).indices[:, : round(share * count)]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True) & (flat > NEVER)
    return NeuronSet(mask.view(scores.shape), languages, about)
