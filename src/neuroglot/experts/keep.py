"""Which experts to keep of a model that is made for one language (Liu et al. 2024, §4.5)."""

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import frequencies

__all__ = ["SALIENCES", "keep_budget", "keep_random", "keep_share", "keep_threshold", "salience"]

SALIENCES = ("frequency", "magnitude", "active")

Scores = Float[Tensor, "layers experts"]
Kept = Bool[Tensor, "layers experts"]


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


def keep_share(frequency: Scores, share: float) -> Kept:
    """The same share of each layer's experts: those of the highest frequency (§4.5.2); of equal ones the first.

    Raises:
        NeuroglotError: the share keeps nothing, or is above 1.
    """
    size = round(share * frequency.shape[1])
    if not 1 <= size <= frequency.shape[1]:
        raise NeuroglotError(
            f"A share of {share:g} keeps {size} of {frequency.shape[1]} experts; choose one in (0, 1]."
        )
    return _highest(frequency, torch.full((len(frequency),), size))


def keep_random(like: Kept, seed: int = 0) -> Kept:
    """Random experts, as many in each layer as `like` keeps: the baseline of every table."""
    generator = torch.Generator().manual_seed(seed)
    return _highest(torch.rand(like.shape, generator=generator), like.sum(1))


def keep_budget(scores: Scores, budget: float) -> Kept:
    """All but this share of the experts: the lowest of all layers go, and so layers keep different numbers.

    A layer keeps its highest expert whatever it scores. Of equal scores those of higher layer and index go first.

    Raises:
        NeuroglotError: the budget is not in [0, 1), or leaves less than one expert a layer.
    """
    layers, experts = scores.shape
    gone = round(budget * layers * experts)
    if not 0 <= budget < 1 or gone > layers * (experts - 1):
        raise NeuroglotError(f"A budget of {budget:g} of {layers} × {experts} experts leaves a layer without any.")
    protected = scores.to(torch.float64).clone()
    protected[torch.arange(layers), scores.argmax(1)] = torch.inf
    order = protected.flatten().sort(descending=True, stable=True).indices
    kept = torch.zeros(layers * experts, dtype=torch.bool)
    kept[order[: layers * experts - gone]] = True
    return kept.view(layers, experts)


def salience(
    recording: Recording,
    partition: Partition,
    language: str,
    *,
    kind: str = "frequency",
    down_norms: Float[Tensor, "layers neurons"] | None = None,
    top: float | int | None = None,
) -> Float64[Tensor, "layers experts"]:
    """How much a language uses each expert.

    Args:
        recording: of the language, with this partition.
        partition: the experts.
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
    one = recording.select([language])
    if kind == "frequency":
        return frequencies(one, top)[0]
    values = one.mean(kind)[..., 0]
    if kind == "magnitude":
        if down_norms is None:
            raise NeuroglotError("magnitude needs down_norms, the lengths of the down-projection's columns.")
        values = values * down_norms.to(torch.float64)
    sums = partition.sums(values)
    return sums if kind == "magnitude" else sums / partition.sizes


def _highest(scores: Tensor, sizes: Tensor) -> Kept:
    """The so many highest of each row; of equal ones the first."""
    ranks = scores.sort(dim=1, descending=True, stable=True).indices.argsort(1)
    return ranks < sizes[:, None]
