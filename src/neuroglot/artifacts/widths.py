"""Layers of different widths in one table: what lies beyond a layer's width is no neuron.

Masks and sums are (L, …) of the widest layer's width. Beyond a layer's own width they are False or 0, and no share,
quantile or budget counts it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor
from torch.nn.functional import pad

from neuroglot.errors import NeuroglotError

__all__ = ["check_widths", "exists", "given_widths", "padded", "stated", "within"]


def exists(widths: Sequence[int]) -> Bool[Tensor, "layers neurons"]:
    """Which entries of a table (L, max width) are neurons."""
    return torch.arange(max(widths))[None] < torch.tensor(widths)[:, None]


def stated(widths: Sequence[int]) -> dict[str, Any]:
    """What `about` of neurons, a recording or samples says of widths: nothing where all layers are equal."""
    return {} if len(set(widths)) == 1 else {"widths": list(widths)}


def padded(layers: Sequence[Tensor]) -> Tensor:
    """One tensor a layer, (N of the layer, …), as one table (L, max N, …), with zeros beyond."""
    most = max(len(each) for each in layers)
    return torch.stack([pad(each, (0, 0) * (each.ndim - 1) + (0, most - len(each))) for each in layers])


def within(scores: Float64[Tensor, "languages layers neurons"], widths: Sequence[int]) -> Tensor:
    """Scores with −∞ beyond each layer's width, where nothing is ever chosen."""
    if len(set(widths)) == 1:
        return scores
    return scores.masked_fill(~exists(widths), -torch.inf)


def check_widths(widths: Any, table: Tensor) -> None:
    """Refuse widths, as a file says them, that are not those of a table (L, N, …).

    Raises:
        ValueError: they are not a whole number from 0 to N for each of the L layers, none of them is N, or the table
            holds something beyond them.
    """
    layers, neurons = table.shape[:2]
    numbers = isinstance(widths, list | tuple) and all(type(width) is int and 0 <= width <= neurons for width in widths)
    if not numbers or len(widths) != layers or max(widths) != neurons:
        raise ValueError(f"its widths are not those of {layers} layers of at most {neurons} neurons")
    if bool(table[~exists(widths)].any()):
        raise ValueError("it holds something of neurons beyond its layers' widths")


def given_widths(widths: Sequence[int] | None, tables: Iterable[Tensor]) -> tuple[int, ...] | None:
    """Widths that somebody says of their tables (L, N, …): None where all layers are equal.

    Raises:
        NeuroglotError: they are not those of the tables.
    """
    if widths is None:
        return None
    for table in tables:
        try:
            check_widths(list(widths), table)
        except ValueError as error:
            raise NeuroglotError(f"widths do not fit: {error}.") from error
    return tuple(widths) if len(set(widths)) > 1 else None
