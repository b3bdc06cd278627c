"""Where sets of neurons are, beside one another: shared with another method's, and over experts."""

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.neurons import NeuronSet

__all__ = ["by_expert", "compare"]


def compare(first: NeuronSet, second: NeuronSet) -> pd.DataFrame:
    """How much two methods agree about each language that both have.

    Returns:
        A row a language: `first` and `second` (sizes), `shared`, `by_chance` (what two random sets of these sizes
        share on average) and `jaccard` (shared over either; NaN where both are empty).

    Raises:
        NeuroglotError: the sets are of different shapes, or have no language in common.
    """
    if first.shape != second.shape:
        raise NeuroglotError(f"These neurons are of {first.shape} and {second.shape} layers and neurons: two models.")
    common = [tag for tag in first.languages if tag in second.languages]
    if not common:
        raise NeuroglotError("These sets of neurons have no language in common.")
    one, two = first.select(common).mask, second.select(common).mask
    table = pd.DataFrame(
        {
            "first": one.sum((1, 2)).tolist(),
            "second": two.sum((1, 2)).tolist(),
            "shared": (one & two).sum((1, 2)).tolist(),
        },
        index=pd.Index(common, name="language"),
    )
    table["by_chance"] = table["first"] * table["second"] / one[0].numel()
    table["jaccard"] = table["shared"] / (table["first"] + table["second"] - table["shared"])
    return table


def by_expert(neurons: NeuronSet, labels: Int[Tensor, "layers neurons"]) -> Int[Tensor, "languages layers experts"]:
    """How many neurons of each set each expert holds.

    Args:
        neurons: the sets.
        labels: the expert of every neuron of every layer, from 0.

    Raises:
        NeuroglotError: `labels` is of another shape.
    """
    if tuple(labels.shape) != neurons.shape:
        raise NeuroglotError(f"labels must be {neurons.shape} layers and neurons, not {tuple(labels.shape)}.")
    labels = labels.to(torch.int64).expand(len(neurons.languages), -1, -1)
    counts = torch.zeros(*neurons.mask.shape[:2], int(labels.max()) + 1, dtype=torch.int64)
    return counts.scatter_add_(2, labels, neurons.mask.to(torch.int64))
