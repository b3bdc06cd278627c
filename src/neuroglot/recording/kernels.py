"""The reductions as Triton kernels, for CUDA devices. `reductions` says what they compute and is their reference."""

from typing import Literal

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

__all__ = ["reduce_tokens"]

ROWS = 512  # tokens a program adds up
COLUMNS = 128  # neurons a program adds up: 256 bytes of bfloat16 a row, whole memory transactions
AT_ONCE = 32


@triton.jit
def _reduce(
    values,
    partial,
    tokens,
    rows,
    neurons,
    stride_batch,
    stride_token,
    SUM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * ROWS
    inside = column < neurons
    # one running sum a lane, and one reduction at the end: a reduction each step would cost more than the memory
    total = tl.zeros((AT_ONCE, COLUMNS), dtype=tl.int32 if SUM == "positive" else tl.float64)
    for start in range(0, ROWS, AT_ONCE):
        row = first + start + tl.arange(0, AT_ONCE)
        place = (row // tokens).to(tl.int64) * stride_batch + (row % tokens) * stride_token
        wanted = (row < rows)[:, None] & inside[None, :]
        x = tl.load(values + place[:, None] + column[None, :], mask=wanted, other=0.0)
        if SUM == "positive":
            total += (x > 0).to(tl.int32)
        elif SUM == "magnitude":
            total += tl.abs(x).to(tl.float64)
        else:
            total += x.to(tl.float64)
    tl.store(partial + tl.program_id(1) * neurons + column, tl.sum(total, axis=0), mask=inside)


Sum = Literal["positive", "values", "magnitude"]


def reduce_tokens(values: Float[Tensor, "batch tokens neurons"], what: Sum) -> Tensor:
    """(neurons,) sums over batch and tokens: of ones where a value is positive (int64), of values or their magnitudes.

    The order of addition is fixed by the shape, so the same input gives the same bytes.
    """
    if values.stride(-1) != 1:
        values = values.contiguous()
    batch, tokens, neurons = values.shape
    rows = batch * tokens
    programs = triton.cdiv(rows, ROWS)
    counting = what == "positive"
    partial = torch.empty(programs, neurons, dtype=torch.int32 if counting else torch.float64, device=values.device)
    with torch.cuda.device(values.device):
        _reduce[(triton.cdiv(neurons, COLUMNS), programs)](
            values,
            partial,
            tokens,
            rows,
            neurons,
            values.stride(0),
            values.stride(1),
            SUM=what,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            AT_ONCE=AT_ONCE,
        )
    return partial.sum(0, dtype=torch.int64 if counting else torch.float64)
