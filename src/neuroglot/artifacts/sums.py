"""How what was reduced from two texts becomes that of both, and what no pass over text can leave."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Int64
from pydantic import BaseModel
from torch import Tensor

from neuroglot.artifacts.widths import check_widths

__all__ = ["Merge", "Own", "check_sums", "merged"]

Merge = Literal["sum", "max", "min"]
"""All three are the same in any grouping, which is what resuming, shards and workers rest on."""


class Own(BaseModel, frozen=True):
    """What a recording keeps of a statistic that somebody registered."""

    digest: str
    """Of its name, its version and its code; recordings of different ones do not add."""
    merge: Merge = "sum"
    """How two texts' are merged."""


def merged(total: Tensor, more: Tensor, how: Merge) -> Tensor:
    """What was reduced from both texts; `total` may be written to."""
    if how == "sum":
        return total.add_(more)
    return torch.maximum(total, more) if how == "max" else torch.minimum(total, more)


def check_sums(sums: Mapping[str, Tensor], tokens: Int64[Tensor, " languages"], languages: int, uneven: Any) -> None:
    """Refuse sums that no pass over text can leave.

    Args:
        sums: by name.
        tokens: of each language.
        languages: how many there are.
        uneven: how many neurons each layer has, where that differs.

    Raises:
        ValueError: a shape does not fit the languages, a count is negative or above its language's tokens, or a sum is
            not a number or of no neuron.
    """
    for name, values in sums.items():
        if values.ndim < 2 or values.shape[-1] != languages or not values.numel():
            raise ValueError(f"{name} has the shape {tuple(values.shape)}, for {languages} languages")
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has sums that are not numbers")
        # Every integer statistic counts tokens, so the bound holds for all of them.
        if not values.is_floating_point() and bool(((values < 0) | (values > tokens)).any()):
            raise ValueError(f"{name} has counts that are not from 0 to the number of tokens")
        if uneven is not None and "active" in sums and values.shape == sums["active"].shape:
            check_widths(uneven, values)
