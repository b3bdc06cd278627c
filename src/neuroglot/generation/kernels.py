"""Attention of one new token a row over a cache of slots, and its rotary position, as Triton kernels."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["attend", "rotate"]

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
    WIDTH: tl.constexpr,
    WIDTHS: tl.constexpr,
    PLACES: tl.constexpr,
    CAPPED: tl.constexpr,
):
    head = tl.program_id(0)  # heads of a group side by side: what one has read, the others find in the cache
    row = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDTHS)
    inside = column < WIDTH
    at = tl.load(position + row)
    q = tl.load(query + row * query_row + head * query_head + column, mask=inside, other=0.0).to(tl.float32) * scale
    highest = tl.full((1,), -1e30, dtype=tl.float32)
    total = tl.zeros((1,), dtype=tl.float32)
    sums = tl.zeros((WIDTHS,), dtype=tl.float32)
    keys += row * key_row + head // GROUP * key_head
    values += row * value_row + head // GROUP * value_head
    first = tl.maximum(at - window + 1, 0) // PLACES * PLACES
    for start in range(first, at + 1, PLACES):
        place = start + tl.arange(0, PLACES)
        seen = (place <= at) & (place > at - window)
        read = seen[:, None] & inside[None, :]
        k = tl.load(keys + place[:, None] * key_place + column[None, :], mask=read, other=0.0)
        v = tl.load(values + place[:, None] * value_place + column[None, :], mask=read, other=0.0)
        score = tl.sum(q[None, :] * k.to(tl.float32), axis=1)
        if CAPPED:
            score = softcap * (2.0 / (1.0 + tl.exp(-2.0 * score / softcap)) - 1.0)  # tanh
        score = tl.where(seen, score, -1e30)
        now = tl.maximum(highest, tl.max(score, axis=0))
        share = tl.where(seen, tl.exp(score - now), 0.0)
        keep = tl.exp(highest - now)
        sums = sums * keep + tl.sum(share[:, None] * v.to(tl.float32), axis=0)
        total = total * keep + tl.sum(share, axis=0)
        highest = now
    tl.store(out + row * out_row + head * out_head + column, (sums / total).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    query,
    key,
    cosine,
    sine,
    new_query,
    new_key,
    heads,
    query_row,
    query_head,
    key_row,
    key_head,
    angle_row,
    new_query_row,
    new_key_row,
    WIDTH: tl.constexpr,
    HALVES: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, HALVES)
    inside = column < WIDTH // 2
    if head < heads:
        source = query + row * query_row + head * query_head
        target = new_query + row * new_query_row + head * WIDTH
    else:
        source = key + row * key_row + (head - heads) * key_head
        target = new_key + row * new_key_row + (head - heads) * WIDTH
    one = tl.load(source + column, mask=inside, other=0.0).to(tl.float32)
    two = tl.load(source + WIDTH // 2 + column, mask=inside, other=0.0).to(tl.float32)
    cosine += row * angle_row
    sine += row * angle_row
    first = one * tl.load(cosine + column, mask=inside, other=0.0).to(tl.float32)
    first -= two * tl.load(sine + column, mask=inside, other=0.0).to(tl.float32)
    second = two * tl.load(cosine + WIDTH // 2 + column, mask=inside, other=0.0).to(tl.float32)
    second += one * tl.load(sine + WIDTH // 2 + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + column, first.to(new_query.dtype.element_ty), mask=inside)
    tl.store(target + WIDTH // 2 + column, second.to(new_query.dtype.element_ty), mask=inside)


def rotate(
    query: Float[Tensor, "rows heads 1 width"],
    key: Float[Tensor, "rows kept 1 width"],
    cosine: Float[Tensor, "angles 1 width"],
    sine: Float[Tensor, "angles 1 width"],
) -> tuple[Float[Tensor, "rows heads 1 width"], Float[Tensor, "rows kept 1 width"]]:
    """Rotary positions of one token a row: the two halves of each head turned against each other."""
    rows, heads, _, width = query.shape
    kept = key.shape[1]
    new_query = torch.empty((rows, heads, 1, width), dtype=query.dtype, device=query.device)
    new_key = torch.empty((rows, kept, 1, width), dtype=key.dtype, device=key.device)
    cosine, sine = cosine.contiguous(), sine.contiguous()
    _rotate[(heads + kept, rows)](
        query, key, cosine, sine, new_query, new_key, heads, query.stride(0), query.stride(1), key.stride(0),
        key.stride(1), 0 if cosine.shape[0] == 1 else width, heads * width, kept * width,
        WIDTH=width, HALVES=triton.next_power_of_2(width // 2), num_warps=1,
    )  # fmt: skip
    return new_query, new_key


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
    widths = triton.next_power_of_2(width)
    _attend[(heads, rows)](
        query, keys, values, position, out, scale, softcap or 1.0, window or (1 << 30),
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        values.stride(0), values.stride(1), values.stride(2), out.stride(0), out.stride(2),
        GROUP=heads // kept, WIDTH=width, WIDTHS=widths, PLACES=max(16, NUMBERS // widths), CAPPED=bool(softcap),
        num_warps=4,
    )  # fmt: skip
    return out
