"""Activation frequencies of experts, and what follows from them for single experts."""

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from neuroglot.artifacts.origin import check_precision
from neuroglot.artifacts.recording import EXPERTS, ROUTED, Recording
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import real, takes_numbers

__all__ = ["HIGH", "counts", "frequencies", "high_frequency", "high_threshold", "shared", "tuning_change"]

HIGH = 0.05
"""From this frequency on an expert is high-frequency (§4.3)."""


def frequencies(recording: Recording, top: float | int | None = None) -> Float64[Tensor, "languages layers experts"]:
    """The share of each language's tokens on which each expert is activated (Liu et al. 2024, §3).

    Of a native mixture of experts, the share of tokens that the router chose each of them for.

    Args:
        recording: made with a partition, or of a native mixture of experts.
        top: which of the recorded shares or numbers of experts; may be left out if there is one.

    Raises:
        NeuroglotError: the recording counted no experts, or not with this `top`.
    """
    if ROUTED in recording.sums:
        return recording.mean(ROUTED).permute(2, 0, 1).contiguous()
    have = [name for name in recording.sums if name.startswith(EXPERTS)]
    if not have:
        raise NeuroglotError("The recording counted no experts; record again with partition=….")
    if top is not None:
        real(top, "top")
    name = have[0] if top is None and len(have) == 1 else f"{EXPERTS}{top:g}" if top is not None else ""
    if name not in have:
        raise NeuroglotError(
            f"Say which experts count as activated: top = {', '.join(n[len(EXPERTS) :] for n in have)}."
        )
    return recording.mean(name).permute(2, 0, 1).contiguous()


@takes_numbers
def high_frequency(
    frequency: Float64[Tensor, "*languages layers experts"], threshold: float = HIGH
) -> Bool[Tensor, "*languages layers experts"]:
    """Which experts are high-frequency (§4.3): activated on at least 5 % of the tokens."""
    return frequency >= threshold


def high_threshold(recording: Recording) -> float:
    """From which frequency on an expert is high-frequency.

    The paper's 5 % is half of what an expert of a partition has on average, where 10 % are activated. Of a native
    mixture of experts it is half of that average, too: k / E / 2 where the router chooses k of E.
    """
    if recording.experts is None or ROUTED not in recording.sums:
        return HIGH
    chosen = recording.sum(ROUTED).sum((0, 1)).to(torch.float64) / recording.tokens
    return float(chosen.mean()) / sum(count for count, _ in recording.experts) / 2


@takes_numbers
def counts(
    frequency: Float64[Tensor, "languages layers experts"], threshold: float = HIGH
) -> Int64[Tensor, "layers experts"]:
    """In how many languages each expert is high-frequency (Figure 3)."""
    return high_frequency(frequency, threshold).sum(0)


@takes_numbers
def shared(
    frequency: Float64[Tensor, "languages layers experts"], threshold: float = HIGH
) -> Bool[Tensor, "layers experts"]:
    """The multilingual shared experts (§4.3): high-frequency in every language."""
    return high_frequency(frequency, threshold).all(0)


def tuning_change(
    base: Recording, tuned: Recording, top: float | int | None = None
) -> Float64[Tensor, "languages layers experts"]:
    """Frequencies of a tuned variant less those of its base, under the base's partition (§4.4).

    The languages are those of `base`. The last layer is where the paper sees the largest change: compare
    `change.abs().mean(2)` over layers.

    Raises:
        NeuroglotError: the two were not recorded with one partition or not in one precision, or `tuned` lacks a
            language.
    """
    before, after = base.provenance, tuned.provenance
    if before and after and before.partition != after.partition:
        raise NeuroglotError(
            "The two recordings counted experts of two partitions; record the tuned variant with the base's "
            "(partition.of_variant())."
        )
    if before and after:
        check_precision(before.dtype, after.dtype, (before.model, after.model))
    return frequencies(tuned.select(base.languages), top) - frequencies(base, top)
