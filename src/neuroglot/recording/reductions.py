"""Sums over tokens, which is all that recording does to an activation.

Both functions take (batch, tokens, neurons) and give (neurons,). On a CUDA device with Triton each is one kernel that
reads the activation once, so that its cost is the bytes of the activation over the memory's bandwidth; elsewhere plain
torch, in the order in which memory lies: first within each sequence, then over them.
"""

import importlib.util

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

__all__ = ["count_positive", "sum_tokens"]

TRITON = importlib.util.find_spec("triton") is not None

Values = Float[Tensor, "batch tokens neurons"]


def count_positive(values: Values) -> Int64[Tensor, " neurons"]:
    """On how many tokens a value is above zero; exact."""
    if TRITON and values.is_cuda:
        from neuroglot.recording.kernels import reduce_tokens

        return reduce_tokens(values, positive=True)
    # Ones are summed as float32, which is exact to 16.7 M tokens a sequence and five times as fast as summing booleans.
    return torch.gt(values, 0, out=_buffer(values)).sum(1).to(torch.int64).sum(0)


def sum_tokens(values: Values) -> Float64[Tensor, " neurons"]:
    """The sum over tokens, added in float64."""
    if TRITON and values.is_cuda:
        from neuroglot.recording.kernels import reduce_tokens

        return reduce_tokens(values, positive=False)
    return values.sum(1, dtype=torch.float64).sum(0)


_kept: dict[torch.device, Tensor] = {}


def _buffer(values: Tensor) -> Tensor:
    """A float32 tensor of the same shape, kept from call to call: allocating it would cost more than the sum."""
    kept = _kept.get(values.device)
    if kept is None or kept.shape != values.shape:
        kept = _kept[values.device] = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    return kept
