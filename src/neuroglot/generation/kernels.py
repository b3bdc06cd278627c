"""What a layer does between its matrix products, for one new token a row or a few, as Triton kernels."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, TypeVar

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["attend", "gated", "norm", "note", "rotate", "store"]

NUMBERS = 8192  # products that a program holds at once

Made = TypeVar("Made")


def on_its_device(launch: Callable[..., Made]) -> Callable[..., Made]:
    """Launch on the device of the first argument, which need not be the current one."""

    @wraps(launch)
    def launched(first: Tensor, *more: Any, **named: Any) -> Made:
        with torch.cuda.device(first.device):
            return launch(first, *more, **named)

    return launched


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


@triton.jit
def _store(
    key,
    value,
    keys,
    values,
    place,
    heads,
    key_row,
    key_head,
    value_row,
    value_head,
    WIDTH: tl.constexpr,
    WIDTHS: tl.constexpr,
):
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, WIDTHS)
    inside = column < WIDTH
    target = (tl.load(place + row) * heads + head) * WIDTH + column
    tl.store(keys + target, tl.load(key + row * key_row + head * key_head + column, mask=inside), mask=inside)
    tl.store(values + target, tl.load(value + row * value_row + head * value_head + column, mask=inside), mask=inside)


@triton.jit
def _edited(x, numbers, at, step, COUNT: tl.constexpr, inside, dtype):
    # as RowEdits changes values: gain and shift, and where there are four numbers a clamp
    if COUNT > 0:
        gain = tl.load(numbers + at, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(numbers + step + at, mask=inside, other=0.0).to(tl.float32)
        x = (shift + x * gain).to(dtype).to(tl.float32)
    if COUNT > 2:
        low = tl.load(numbers + 2 * step + at, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(numbers + 3 * step + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.minimum(tl.maximum(x, low), high)
    return x


@triton.jit
def _gated(
    gate,
    up,
    out,
    first,
    second,
    neurons,
    tokens,
    gate_row,
    up_row,
    first_step,
    first_row,
    second_step,
    second_row,
    KIND: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.program_id(1).to(tl.int64)
    row = token // tokens
    inside = column < neurons
    dtype = out.dtype.element_ty
    g = tl.load(gate + token * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + token * up_row + column, mask=inside, other=0.0).to(tl.float32)
    if KIND == 0:
        g = g / (1.0 + tl.exp(-g))
    else:  # the tanh form of GELU; tanh z is 1 - 2 / (1 + exp 2z)
        z = 0.7978845608028654 * (g + 0.044715 * g * g * g)
        g = 0.5 * g * (2.0 - 2.0 / (1.0 + tl.exp(2.0 * z)))
    g = _edited(g.to(dtype).to(tl.float32), first, row * first_row + column, first_step, FIRST, inside, dtype)
    h = (g * u).to(dtype).to(tl.float32)
    h = _edited(h, second, row * second_row + column, second_step, SECOND, inside, dtype)
    tl.store(out + token * neurons + column, h.to(dtype), mask=inside)


@triton.jit
def _norm(states, weight, out, width, eps, MORE: tl.constexpr, WIDTHS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTHS)
    inside = column < width
    x = tl.load(states + row * width + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + MORE
    x = x * (1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps))
    tl.store(out + row * width + column, (x * w).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _note(token, ends, last, position, count, done, written, tokens, ends_count, ENDS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    new = tl.load(token + row)
    idle = tl.load(done + row) != 0
    place = tl.arange(0, ENDS)
    ended = tl.sum((tl.load(ends + place, mask=place < ends_count, other=-1) == new).to(tl.int32), axis=0) > 0
    goes_on = (idle == 0) & (ended == 0)
    before = tl.load(count + row)
    tl.store(written + row * tokens + tl.minimum(before, tokens - 1), new, mask=goes_on)
    after = before + goes_on.to(tl.int64)
    finished = (goes_on == 0) | (after >= tokens)
    tl.store(count + row, after)
    tl.store(done + row, finished.to(tl.uint8))
    tl.store(last + row, new, mask=idle == 0)
    tl.store(position + row, tl.load(position + row) + (finished == 0).to(tl.int64))


@on_its_device
def norm(
    states: Float[Tensor, "*tokens width"], weight: Float[Tensor, " width"], eps: float, more: int = 0
) -> Float[Tensor, "*tokens width"]:
    """Root-mean-square norm, times the weight and `more`."""
    states = states.contiguous()
    out = torch.empty_like(states)
    width = states.shape[-1]
    widths = triton.next_power_of_2(width)
    warps = 1 if widths <= 256 else 4 if widths <= 4096 else 8
    _norm[(states.numel() // width,)](states, weight, out, width, eps, MORE=more, WIDTHS=widths, num_warps=warps)
    return out


@on_its_device
def note(
    token: Int[Tensor, " rows"],
    ends: Int[Tensor, " ends"],
    last: Int[Tensor, " slots"],
    position: Int[Tensor, " slots"],
    count: Int[Tensor, " slots"],
    done: Bool[Tensor, " slots"],
    written: Int[Tensor, "slots tokens"],
) -> None:
    """Note the next token of each of the first rows, in place; see `Rows`."""
    _note[(len(token),)](
        token, ends, last, position, count, done.view(torch.uint8), written, written.shape[1], len(ends),
        ENDS=triton.next_power_of_2(max(1, len(ends))), num_warps=1,
    )  # fmt: skip


@on_its_device
def store(
    key: Float[Tensor, "rows kept 1 width"],
    value: Float[Tensor, "rows kept 1 width"],
    keys: Float[Tensor, "slots length kept width"],
    values: Float[Tensor, "slots length kept width"],
    place: Int[Tensor, " rows"],
) -> None:
    """Put a token's keys and values at `slot * length + position`, for each row."""
    rows, kept, _, width = key.shape
    if key.stride(3) != 1 or value.stride(3) != 1 or key.shape != value.shape:
        raise NotImplementedError("keys and values of this layout")
    _store[(kept, rows)](
        key, value, keys, values, place, kept, key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        WIDTH=width, WIDTHS=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip


@on_its_device
def gated(
    gate: Float[Tensor, "*tokens neurons"],
    up: Float[Tensor, "*tokens neurons"],
    kind: Literal["silu", "gelu_tanh"],
    rows: int,
    activation: Float[Tensor, "numbers some neurons"] | None = None,
    hidden: Float[Tensor, "numbers some neurons"] | None = None,
) -> Float[Tensor, "*tokens neurons"]:
    """A gated FFN's product: what the function gives of the gate, times up, both under the edits of each row.

    Args:
        gate: of each token of each row, the rows one after the other.
        up: likewise.
        kind: the function.
        rows: how many.
        activation: what is done to the function's values: gain and shift of every neuron, or those and two bounds, for
            every row or once for all; see `RowEdits`.
        hidden: what is done to the product.
    """
    neurons = gate.shape[-1]
    gates, ups = gate.reshape(-1, neurons), up.reshape(-1, neurons)
    out = torch.empty(gates.shape, dtype=gate.dtype, device=gate.device)
    tables = [_strides(table, out) for table in (activation, hidden)]
    block = min(1024, triton.next_power_of_2(neurons))
    _gated[(triton.cdiv(neurons, block), len(gates))](
        gates, ups, out, tables[0][0], tables[1][0], neurons, len(gates) // rows, gates.stride(0), ups.stride(0),
        *tables[0][1:3], *tables[1][1:3], KIND=int(kind == "gelu_tanh"), FIRST=tables[0][3], SECOND=tables[1][3],
        BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out.view(gate.shape)


def _strides(table: Tensor | None, some: Tensor) -> tuple[Tensor, int, int, int]:
    """A table of edits, from number to number, from row to row, and how many numbers it has."""
    if table is None:
        return some, 0, 0, 0
    return table, table.stride(0), table.stride(1) if table.shape[1] > 1 else 0, len(table)


@on_its_device
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


@on_its_device
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
