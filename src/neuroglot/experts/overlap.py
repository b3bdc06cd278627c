"""Where sets of neurons are, beside one another: shared with another method's, and over experts."""

import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.errors import NeuroglotError

__all__ = ["by_expert", "in_experts"]


def by_expert(neurons: NeuronSet, labels: Int[Tensor, "layers neurons"]) -> Int[Tensor, "languages layers experts"]:
    """How many neurons of each set each expert holds.

    Args:
        neurons: the sets.
        labels: the expert of every neuron of every layer, from 0; -1 beyond the width of a narrower layer.

    Raises:
        NeuroglotError: `labels` is of another shape.
    """
    if tuple(labels.shape) != neurons.shape:
        raise NeuroglotError(f"labels must be {neurons.shape} layers and neurons, not {tuple(labels.shape)}.")
    return torch.stack([_counted(mask, labels) for mask in neurons.mask])


def _counted(mask: Bool[Tensor, "layers neurons"], labels: Int[Tensor, "layers neurons"]) -> Tensor:
    """How many neurons of a mask each expert holds; those without an expert are none."""
    counts = torch.zeros(len(mask), int(labels.max()) + 1, dtype=torch.int64)
    return counts.scatter_add_(1, labels.to(torch.int64).clamp_min(0), (mask & (labels >= 0)).to(torch.int64))


def in_experts(
    neurons: NeuronSet, labels: Int[Tensor, "layers neurons"], chosen: Bool[Tensor, "languages layers experts"]
) -> pd.DataFrame:
    """How many of each language's neurons lie in experts chosen for that language, such as its high-frequency ones.

    Args:
        neurons: the sets.
        labels: the expert of every neuron of every layer, from 0; -1 beyond the width of a narrower layer.
        chosen: the experts in question, a row for each language of `neurons`, in its order.

    Returns:
        A row a language: `neurons` (how many it has), `inside` (how many of them lie in its chosen experts),
        `by_chance` (how many would if neurons of each layer were drawn blindly) and `ratio` (inside over by chance).

    Raises:
        NeuroglotError: shapes do not agree.
    """
    held = by_expert(neurons, labels)
    if tuple(chosen.shape) != tuple(held.shape):
        raise NeuroglotError(
            f"chosen must be {tuple(held.shape)}, languages × layers × experts: {tuple(chosen.shape)}."
        )
    sizes = _counted(torch.ones_like(labels, dtype=torch.bool), labels)
    share = (chosen * sizes).sum(2) / sizes.sum(1)  # of each layer's neurons, by language
    table = pd.DataFrame(
        {
            "neurons": held.sum((1, 2)).tolist(),
            "inside": (held * chosen).sum((1, 2)).tolist(),
            "by_chance": (held.sum(2) * share).sum(1).tolist(),
        },
        index=pd.Index(neurons.languages, name="language"),
    )
    table["ratio"] = table["inside"] / table["by_chance"].where(table["by_chance"] > 0)
    return table
