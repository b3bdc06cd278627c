"""Which experts to keep of a model that is made for one language (Liu et al. 2024, §4.5)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import frequencies
from neuroglot.storage.given import takes_numbers

__all__ = [
    "MULTIPLE",
    "SALIENCES",
    "keep_budget",
    "keep_random",
    "keep_share",
    "keep_threshold",
    "keep_width",
    "neuron_salience",
    "salience",
    "same_width",
]

SALIENCES = ("frequency", "magnitude", "active")
MULTIPLE = 8  # of the width of a native expert, as grouped kernels need it

Scores = Float[Tensor, "layers experts"]
Kept = Bool[Tensor, "layers experts"]


@takes_numbers
def keep_threshold(frequency: Scores, threshold: float) -> Kept:
    """The experts activated on at least this share of the language's tokens (§4.5.1).

    Raises:
        NeuroglotError: a layer would keep none.
    """
    kept = frequency >= threshold
    empty = (~kept.any(1)).nonzero().flatten().tolist()
    if empty:
        raise NeuroglotError(
            f"No expert of layer {empty[0] + 1} reaches a frequency of {threshold:g} (its highest is "
            f"{float(frequency[empty[0]].max()):.3g}); choose a lower threshold."
        )
    return kept


@takes_numbers
def keep_share(frequency: Scores, share: float) -> Kept:
    """The same share of each layer's experts: those of the highest frequency (§4.5.2); of equal ones the first.

    Raises:
        NeuroglotError: the share keeps nothing, or is above 1.
    """
    size = round(min(share, 2.0) * frequency.shape[1])  # of infinity nothing can be rounded
    if not 1 <= size <= frequency.shape[1]:
        raise NeuroglotError(
            f"A share of {share:g} keeps {size} of {frequency.shape[1]} experts; choose one in (0, 1]."
        )
    return _highest(frequency, torch.full((len(frequency),), size))


@takes_numbers
def keep_random(like: Kept, seed: int = 0) -> Kept:
    """Random experts, as many in each layer as `like` keeps: the baseline of every table."""
    generator = torch.Generator().manual_seed(seed)
    return _highest(torch.rand(like.shape, generator=generator), like.sum(1))


@takes_numbers
def keep_budget(scores: Scores, budget: float, least: int = 1) -> Kept:
    """All but this share of the experts: the lowest of all layers go, and so layers keep different numbers.

    A layer keeps its highest expert whatever it scores. Of equal scores those of higher layer and index go first.

    Args:
        scores: of each expert.
        budget: the share that goes.
        least: how many of the highest a layer keeps; of a native mixture as many as its router chooses.

    Raises:
        NeuroglotError: the budget is not in [0, 1), or leaves less than that many experts a layer.
    """
    layers, experts = scores.shape
    gone = round(budget * layers * experts)
    if not 0 <= budget < 1 or gone > layers * (experts - least):
        few = "without any" if least == 1 else f"with fewer than the {least} that its router chooses"
        raise NeuroglotError(f"A budget of {budget:g} of {layers} × {experts} experts leaves a layer {few}.")
    protected = scores.to(torch.float64).masked_fill(_highest(scores, torch.full((layers,), least)), torch.inf)
    order = protected.flatten().sort(descending=True, stable=True).indices
    kept = torch.zeros(layers * experts, dtype=torch.bool)
    kept[order[: layers * experts - gone]] = True
    return kept.view(layers, experts)


@takes_numbers
def keep_width(
    recording: Recording, scores: Float[Tensor, "layers neurons"], share: float
) -> Bool[Tensor, "layers neurons"]:
    """The same share of every native expert's neurons, up to the next multiple of 8: those of the highest scores.

    Neurons of shared experts and of dense layers stay.

    Args:
        recording: of a native mixture of experts.
        scores: of each neuron, such as `neuron_salience`.
        share: of an expert's neurons.

    Raises:
        NeuroglotError: the recording is of a dense model, or the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise NeuroglotError(f"A share of {share:g} of an expert's neurons keeps none, or more; choose one in (0, 1].")
    kept = recording.exists.clone()
    for layer, (count, width) in enumerate(_sizes(recording)):
        if count:
            size = min(width, math.ceil(round(share * width, 9) / MULTIPLE) * MULTIPLE)
            own = scores[layer, : count * width].view(count, width)
            kept[layer, : count * width] = _highest(own, torch.full((count,), size)).flatten()
    return kept


def same_width(
    like: Bool[Tensor, "layers neurons"], sizes: Sequence[tuple[int, int]], seed: int = 0
) -> Bool[Tensor, "layers neurons"]:
    """Random neurons of each native expert, as many as `like` keeps: the baseline of `keep_width`.

    Args:
        like: a choice of neurons.
        sizes: how many experts each layer has, and how many neurons each of them; (0, 0) for a dense layer.
        seed: of the choice.
    """
    generator, kept = torch.Generator().manual_seed(seed), like.clone()
    for layer, (count, width) in enumerate(sizes):
        if count:
            own = like[layer, : count * width].view(count, width)
            chosen = _highest(torch.rand(own.shape, generator=generator), own.sum(1).cpu())
            kept[layer, : count * width] = chosen.flatten()
    return kept


def neuron_salience(
    recording: Recording, language: str, kind: str, down_norms: Float[Tensor, "layers neurons"] | None = None
) -> Float64[Tensor, "layers neurons"]:
    """How much a language uses each neuron: `magnitude` or `active`, as in `salience`.

    Raises:
        NeuroglotError: it was not recorded, or `magnitude` has no `down_norms`.
    """
    values = recording.select([language]).mean(kind)[..., 0]
    if kind != "magnitude":
        return values
    if down_norms is None:
        raise NeuroglotError("magnitude needs down_norms, the lengths of the down-projection's columns.")
    return values * down_norms.detach().to(torch.float64)


def salience(
    recording: Recording,
    partition: Partition | None,
    language: str,
    *,
    kind: str = "frequency",
    down_norms: Float[Tensor, "layers neurons"] | None = None,
    top: float | int | None = None,
) -> Float64[Tensor, "layers experts"]:
    """How much a language uses each expert.

    Args:
        recording: of the language, with this partition, or of a native mixture of experts.
        partition: the experts; None where they are the model's own.
        language: whose.
        kind: `frequency`, the paper's; `magnitude`, mean |hidden| × the length of the neuron's down-projection column,
            summed over the expert (needs `magnitude` in the recording); `active`, the mean activation probability.
        down_norms: (L, N) lengths of the down-projection's columns, for `magnitude`.
        top: see `frequencies`.

    Raises:
        NeuroglotError: the kind is unknown, or what it needs was not recorded or given.
    """
    if kind not in SALIENCES:
        raise NeuroglotError(f"{kind} is no salience; choose among {', '.join(SALIENCES)}.")
    if kind == "frequency":
        return frequencies(recording.select([language]), top)[0]
    values = neuron_salience(recording, language, kind, down_norms)
    if partition is None:
        return _native(recording, values, kind)
    sums = partition.sums(values)
    return sums if kind == "magnitude" else sums / partition.sizes


def _native(recording: Recording, values: Float64[Tensor, "layers neurons"], kind: str) -> Tensor:
    """Values of neurons summed over a native mixture's own experts; of `active` their mean."""
    sizes = _sizes(recording)
    sums = torch.zeros(len(sizes), max(count for count, _ in sizes), dtype=torch.float64)
    for layer, (count, width) in enumerate(sizes):
        if count:
            own = values[layer, : count * width].view(count, width)
            sums[layer, :count] = own.sum(1) if kind == "magnitude" else own.mean(1)
    return sums


def _sizes(recording: Recording) -> Sequence[tuple[int, int]]:
    if recording.experts is None:
        raise NeuroglotError("The recording is of a dense model; give the partition of its experts.")
    return recording.experts


def _highest(scores: Tensor, sizes: Tensor) -> Kept:
    """The so many highest of each row; of equal ones the first."""
    ranks = scores.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return ranks < sizes[:, None]
