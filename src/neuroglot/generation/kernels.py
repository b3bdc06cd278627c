"""Attention of one new token a row over a cache of slots, as a Triton kernel: only what each row has is read."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["attend"]

NUMBERS = 8192  # products that a program holds at once


@triton.jit
def _attend(
    query,
    keys,
    values,
    position,
    out,
    scale,
    softcap,
    window,
    query_row,
    query_head,
    key_row,
    key_head,
    key_place,
    value_row,
    value_head,
    value_place,
    out_row,
    out_head,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTHS: tl.constexpr,
    PLACES: tl.constexpr,
    CAPPED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    group = tl.arange(0, GROUPS)
    column = tl.arange(0, WIDTHS)
    inside = (group < GROUP)[:, None] & (column < WIDTH)[None, :]
    at = tl.load(position + row)
    heads = head * GROUP + group
    q = tl.load(query + row * query_row + heads[:, None] * query_head + column[None, :], mask=inside, other=0.0)
    q = q.to(tl.float32) * scale
    highest = tl.full((GROUPS,), -1e30, dtype=tl.float32)
    total = tl.zeros((GROUPS,), dtype=tl.float32)
    sums = tl.zeros((GROUPS, WIDTHS), dtype=tl.float32)
    first = tl.maximum(at - window + 1, 0) // PLACES * PLACES
    for start in range(first, at + 1, PLACES):
        place = start + tl.arange(0, PLACES)
        seen = (place <= at) & (place > at - window)
        read = seen[:, None] & (column < WIDTH)[None, :]
        key = keys + row * key_row + head * key_head + place[:, None] * key_place + column[None, :]
        k = tl.load(key, mask=read, other=0.0).to(tl.float32)
        score = tl.sum(q[:, None, :] * k[None, :, :], axis=2)
        if CAPPED:
            score = softcap * (2.0 / (1.0 + tl.exp(-2.0 * score / softcap)) - 1.0)  # tanh
        score = tl.where(seen[None, :], score, -1e30)
        now = tl.maximum(highest, tl.max(score, axis=1))
        share = tl.where(seen[None, :], tl.exp(score - now[:, None]), 0.0)
        keep = tl.exp(highest - now)
        value = values + row * value_row + head * value_head + place[:, None] * value_place + column[None, :]
        v = tl.load(value, mask=read, other=0.0).to(tl.float32)
        sums = sums * keep[:, None] + tl.sum(share[:, :, None] * v[None, :, :], axis=1)
        total = total * keep + tl.sum(share, axis=1)
        highest = now
    mean = sums / total[:, None]
    where = out + row * out_row + heads[:, None] * out_head + column[None, :]
    tl.store(where, mean.to(out.dtype.element_ty), mask=inside)


def attend(
    query: Float[Tensor, "rows heads 1 width"],
    keys: Float[Tensor, "rows kept places width"],
    values: Float[Tensor, "rows kept places width"],
    position: Int[Tensor, " rows"],
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> Float[Tensor, "rows 1 heads width"]:
    """Softmax attention of each row's token over the places up to its own position, or the last `window` of them."""
    rows, heads, _, width = query.shape
    kept = keys.shape[1]
    if query.stride(3) != 1 or keys.stride(3) != 1 or values.stride(3) != 1 or values.shape != keys.shape:
        raise NotImplementedError("keys and values of this layout")
    out = torch.empty((rows, 1, heads, width), dtype=query.dtype, device=query.device)
    groups, widths = triton.next_power_of_2(heads // kept), triton.next_power_of_2(width)
    places = max(16, min(128, NUMBERS // (groups * widths)))
    _attend[(rows, kept)](
        query, keys, values, position, out, scale, softcap or 1.0, window or (1 << 30),
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2), out.stride(0), out.stride(2),
        GROUP=heads // kept, GROUPS=groups, WIDTH=width, WIDTHS=widths, PLACES=places, CAPPED=bool(softcap),
        num_warps=4,
    )  # fmt: skip
    return out
