"""A dense FFN split into experts, as MoEfication does."""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import normalize

from neuroglot.artifacts.partition import Kind, Partition
from neuroglot.artifacts.widths import padded
from neuroglot.errors import NeuroglotError
from neuroglot.experts.kmeans import balanced_kmeans
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.storage.given import takes_numbers

__all__ = ["partition", "reorder"]


@torch.no_grad()
def check_number(experts: int, widths: Sequence[int]) -> None:
    """Refuse more experts than the narrowest layer has neurons.

    Raises:
        NeuroglotError: as said.
    """
    if not 1 <= experts <= min(widths):
        raise NeuroglotError(
            f"{min(widths)} neurons cannot be split into {experts} experts; ask for 1 to {min(widths)}."
        )


@takes_numbers
def partition(
    model: Model,
    experts: int = 256,
    *,
    kind: Kind = "parameter",
    seed: int = 0,
    normalise: bool = True,
    labels: Int64[Tensor, "layers neurons"] | None = None,
    equal: bool = True,
    progress: bool = True,
) -> Partition:
    """Split every layer's neurons into experts (Liu et al. 2024, §3, "Expert Construction").

    Args:
        model: whose neurons.
        experts: how many a layer, E.
        kind: `parameter`, the paper's: balanced k-means on the up-projection's rows (gated) or fc1's (plain);
            `random`: a seeded shuffle; `contiguous`: neurons in their order; `labels`: your own.
        seed: of `parameter` and `random`.
        normalise: give rows unit length first, as MoEfication does (`parameter`).
        labels: (L, N) integers from 0 to E - 1 (`labels`).
        equal: with `labels`, refuse sizes that differ by more than one within a layer.
        progress: show a bar over the layers (`parameter`).

    Raises:
        NeuroglotError: there are more experts than neurons, or the labels do not fit.
    """
    model.check_dense("its neurons are in experts already", "see routed in its recording")
    check_number(experts, model.widths)
    if kind not in get_args(Kind):
        raise NeuroglotError(f"kind is {', '.join(get_args(Kind))}, not {kind!r:.40}.")
    if (labels is None) == (kind == "labels"):
        raise NeuroglotError('labels are given with kind="labels", and with that kind only.')
    about = {"kind": kind, "model": model.name, "fingerprint": model.fingerprint}
    if labels is not None:
        shape = (model.layers, model.neurons)
        if tuple(labels.shape) != shape:
            raise NeuroglotError(f"labels must be {shape}, one for each neuron, not {tuple(labels.shape)}.")
        own = Partition(labels, experts, about)
        own.check(model)
        uneven = (own.sizes.amax(1) - own.sizes.amin(1) > 1).nonzero().flatten().tolist()
        if equal and uneven:
            sizes = own.sizes[uneven[0]]
            raise NeuroglotError(
                f"The experts of layer {uneven[0] + 1} have from {int(sizes.min())} to {int(sizes.max())} neurons; "
                "make them equal, or say equal=False."
            )
        return own
    even = [torch.arange(each) * experts // each for each in model.widths]
    if kind == "contiguous":
        return Partition(_labels(even), experts, about)
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        shuffled = [each[torch.randperm(len(each), generator=generator)] for each in even]
        return Partition(_labels(shuffled), experts, {**about, "seed": seed})
    rows = []
    with progress_bar(
        f"splitting neurons into {experts} experts", model.layers, unit="layers", shown=progress
    ) as advance:
        for ffn in model.ffns:
            if not ffn.readable:
                raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, or use another kind.")
            weight = ffn.up_rows
            points = normalize(weight.float(), dim=1) if normalise else weight.float()
            rows.append(balanced_kmeans(points, experts, seed).cpu())
            advance(1, "")
    return Partition(_labels(rows), experts, {**about, "seed": seed, "normalise": normalise})


def _labels(layers: list[Tensor]) -> Int64[Tensor, "layers neurons"]:
    """One table of all layers, -1 beyond the width of a narrower one."""
    return padded([each + 1 for each in layers]) - 1


@torch.no_grad()
def reorder(model: Model, split: Partition) -> Partition:
    """Put each layer's neurons in the order of their experts, in place; the logits stay as they were, to rounding.

    Returns:
        The same experts in the reordered model: runs of neighbours.

    Raises:
        NeuroglotError: the partition is of another model.
    """
    split.check(model)
    for ffn, labels in zip(model.ffns, split.labels, strict=True):
        ffn.keep(labels[: ffn.neurons].argsort(stable=True))
    model.weights_changed()  # they lie in another order now
    about = {**split.about, "fingerprint": model.fingerprint}
    return Partition(_labels([row[row >= 0].sort().values for row in split.labels]), split.experts, about)
