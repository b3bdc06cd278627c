"""The reductions as Triton kernels, for CUDA devices. `reductions` says what they compute and is their reference.

The order of addition is fixed by the shape, so the same input gives the same bytes.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["count_highest", "keep_highest", "standardise", "sum_tokens"]

ROWS = 512  # tokens a program adds up
COLUMNS = 128  # neurons a program adds up: 256 bytes of bfloat16 a row, whole memory transactions
AT_ONCE = 8  # rows a step; more would not fit the registers when four sums run
WARPS = 2  # few, so that each lane adds up many numbers before lanes are added to one another
TOKENS = 16  # that a program ranks, one after the other
KEPT_ROWS, KEPT_COLUMNS, KEPT_AT_ONCE = 2048, 64, 16  # as above, for the highest values


@triton.jit
def _sum_tokens(
    activation,
    hidden,
    counts,
    sums,
    tokens,
    rows,
    neurons,
    activation_batch,
    activation_token,
    hidden_batch,
    hidden_token,
    ACTIVE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HIDDEN: tl.constexpr,
    MAGNITUDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(1) * ROWS
    inside = column < neurons
    # one running sum a lane, and one reduction at the end: a reduction each step would cost more than the memory
    active = tl.zeros((AT_ONCE, COLUMNS), dtype=tl.int32)
    activations = tl.zeros((AT_ONCE, COLUMNS), dtype=tl.float64)
    hiddens = tl.zeros((AT_ONCE, COLUMNS), dtype=tl.float64)
    magnitudes = tl.zeros((AT_ONCE, COLUMNS), dtype=tl.float64)
    for start in range(0, ROWS, AT_ONCE):
        row = first + start + tl.arange(0, AT_ONCE)
        batch = (row // tokens).to(tl.int64)
        wanted = (row < rows)[:, None] & inside[None, :]
        if ACTIVE or ACTIVATION:
            place = batch * activation_batch + (row % tokens).to(tl.int64) * activation_token
            x = tl.load(activation + place[:, None] + column[None, :], mask=wanted, other=0.0)
            if ACTIVE:
                active += (x > 0).to(tl.int32)
            if ACTIVATION:
                activations += x.to(tl.float64)
        if HIDDEN or MAGNITUDE:
            place = batch * hidden_batch + (row % tokens).to(tl.int64) * hidden_token
            y = tl.load(hidden + place[:, None] + column[None, :], mask=wanted, other=0.0).to(tl.float64)
            if HIDDEN:
                hiddens += y
            if MAGNITUDE:
                magnitudes += tl.abs(y)
    programs = tl.num_programs(1)
    out = tl.program_id(1) * neurons + column
    if ACTIVE:
        tl.store(counts + out, tl.sum(active, axis=0), mask=inside)
    if ACTIVATION:
        tl.store(sums + out, tl.sum(activations, axis=0), mask=inside)
    out += ACTIVATION * programs * neurons
    if HIDDEN:
        tl.store(sums + out, tl.sum(hiddens, axis=0), mask=inside)
    out += HIDDEN * programs * neurons
    if MAGNITUDE:
        tl.store(sums + out, tl.sum(magnitudes, axis=0), mask=inside)


def sum_tokens(
    activation: Float[Tensor, "batch tokens neurons"],
    hidden: Float[Tensor, "batch tokens neurons"],
    names: Sequence[str],
) -> list[Tensor]:
    """(neurons,) each; see `reductions.sum_tokens`."""
    activation, hidden = (each if each.stride(-1) == 1 else each.contiguous() for each in (activation, hidden))
    batch, tokens, neurons = activation.shape
    programs = triton.cdiv(batch * tokens, ROWS)
    added = [name for name in ("activation", "hidden", "magnitude") if name in names]
    counts = torch.empty(programs if "active" in names else 0, neurons, dtype=torch.int32, device=activation.device)
    sums = torch.empty(len(added), programs, neurons, dtype=torch.float64, device=activation.device)
    with torch.cuda.device(activation.device):
        _sum_tokens[(triton.cdiv(neurons, COLUMNS), programs)](
            activation,
            hidden,
            counts,
            sums,
            tokens,
            batch * tokens,
            neurons,
            activation.stride(0),
            activation.stride(1),
            hidden.stride(0),
            hidden.stride(1),
            ACTIVE="active" in names,
            ACTIVATION="activation" in names,
            HIDDEN="hidden" in names,
            MAGNITUDE="magnitude" in names,
            ROWS=ROWS,
            COLUMNS=COLUMNS,
            AT_ONCE=AT_ONCE,
            num_warps=WARPS,
        )
    by_name = dict(zip(added, sums.sum(1), strict=True))
    if "active" in names:
        by_name["active"] = counts.sum(0, dtype=torch.int64)
    return [by_name[name] for name in names]


@triton.jit
def _standardise(scores, out, rows, groups, scores_row, out_row, GROUPS: tl.constexpr, AT_ONCE: tl.constexpr):
    row = tl.program_id(0) * AT_ONCE + tl.arange(0, AT_ONCE)
    column = tl.arange(0, GROUPS)
    inside = (row < rows)[:, None] & (column < groups)[None, :]
    x = tl.load(scores + row.to(tl.int64)[:, None] * scores_row + column[None, :], mask=inside, other=0.0)
    first = tl.sum(tl.where(column == 0, x, 0.0), axis=1)
    apart = tl.where(inside, x - first[:, None], 0.0)  # of equal scores exactly 0, as their mean need not be
    apart = tl.where(inside, apart - (tl.sum(apart, axis=1) / groups)[:, None], 0.0)
    spread = tl.sqrt(tl.sum(apart * apart, axis=1) / groups)[:, None]
    z = tl.where(spread > 0, apart / spread, 0.0)
    tl.store(out + row.to(tl.int64)[:, None] * out_row + column[None, :], z, mask=inside)


def standardise(scores: Float[Tensor, "tokens groups"], out: Float[Tensor, "tokens groups"]) -> None:
    """Into `out`; see `reductions.standardise`."""
    rows, groups = scores.shape
    with torch.cuda.device(scores.device):
        _standardise[(triton.cdiv(rows, 8),)](
            scores,
            out,
            rows,
            groups,
            scores.stride(0),
            out.stride(0),
            GROUPS=triton.next_power_of_2(groups),
            AT_ONCE=8,
        )


@triton.jit
def _count_highest(scores, partial, rows, total, size, TOKENS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.arange(0, COLUMNS)
    inside = column < total
    counts = tl.zeros((COLUMNS,), dtype=tl.int32)
    for i in range(TOKENS):
        row = tl.program_id(0) * TOKENS + i
        if row < rows:
            x = tl.load(scores + row.to(tl.int64) * total + column, mask=inside, other=0.0)
            bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)  # -0 and 0 are equal
            # integers in the order of the numbers they stand for; what is outside comes before all of them
            key = tl.where(inside, bits ^ ((bits >> 31) & 0x7FFFFFFF), -2147483648)
            # the largest key that at least `size` keys reach, bit by bit
            least = tl.where(tl.sum((key >= 0).to(tl.int32), axis=0) >= size, 0, -2147483648)
            for bit in range(31):
                candidate = least + (0x40000000 >> bit)
                least = tl.where(tl.sum((key >= candidate).to(tl.int32), axis=0) >= size, candidate, least)
            chosen = (key >= least) & inside
            if tl.sum(chosen.to(tl.int32), axis=0) > size:
                above = key > least
                equal = (key == least) & inside
                room = size - tl.sum(above.to(tl.int32), axis=0)
                chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= room))
            counts += chosen.to(tl.int32)
    tl.store(partial + tl.program_id(0).to(tl.int64) * total + column, counts, mask=inside)


def count_highest(scores: Float[Tensor, "tokens all"], size: int) -> Int64[Tensor, " all"]:
    """(all,); see `reductions.count_highest`."""
    scores = scores.contiguous()
    rows, total = scores.shape
    columns = triton.next_power_of_2(total)
    programs = triton.cdiv(rows, TOKENS)
    partial = torch.empty(programs, total, dtype=torch.int32, device=scores.device)
    with torch.cuda.device(scores.device):
        _count_highest[(programs,)](
            scores,
            partial,
            rows,
            total,
            size,
            TOKENS=TOKENS,
            COLUMNS=columns,
            num_warps=min(32, max(4, columns // 2048)),
        )
    return partial.sum(0, dtype=torch.int64)


@triton.jit
def _keep_highest(
    values,
    keys,
    out,
    tokens,
    rows,
    neurons,
    seen,
    values_batch,
    values_token,
    K: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < neurons
    slot = tl.arange(0, SLOTS)
    best = tl.zeros((SLOTS, COLUMNS), dtype=tl.int64)
    # a value that is not above this cannot be among the k highest: of equals the earlier token comes first
    least = tl.load(keys + column.to(tl.int64) * K + K - 1, mask=inside, other=0)
    floor = (least >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    for start in range(0, ROWS, AT_ONCE):
        row = tl.program_id(1) * ROWS + start + tl.arange(0, AT_ONCE)
        place = (row // tokens).to(tl.int64) * values_batch + (row % tokens).to(tl.int64) * values_token
        wanted = (row < rows)[:, None] & inside[None, :]
        x = tl.load(values + place[:, None] + column[None, :], mask=wanted, other=0.0).to(tl.float32)
        token = 0xFFFFFFFF - (seen + row.to(tl.int64))
        above = x > floor[None, :]
        while tl.max(tl.max(above.to(tl.int32), axis=0), axis=0) > 0:
            key = (x.to(tl.int32, bitcast=True).to(tl.int64) << 32) | token[:, None]
            key = tl.where(above, key, 0)
            most = tl.max(key, axis=0)
            # the highest of these tokens goes where the lowest of those kept is, if it is higher
            kept = tl.where((slot < K)[:, None], best, 0x7FFFFFFFFFFFFFFF)
            lowest = tl.min(kept, axis=0)
            where = tl.min(tl.where(kept == lowest[None, :], slot[:, None], SLOTS), axis=0)
            best = tl.where((slot[:, None] == where[None, :]) & (most > lowest)[None, :], most[None, :], best)
            lowest = tl.min(tl.where((slot < K)[:, None], best, 0x7FFFFFFFFFFFFFFF), axis=0)
            floor = tl.maximum(floor, (lowest >> 32).to(tl.int32).to(tl.float32, bitcast=True))
            above = above & (key != most[None, :]) & (x > floor[None, :])
    to = (tl.program_id(1) * K + slot).to(tl.int64)[:, None] * neurons + column[None, :]
    tl.store(out + to, best, mask=(slot < K)[:, None] & inside[None, :])


def keep_highest(
    values: Float[Tensor, "batch tokens neurons"], keys: Int64[Tensor, "neurons k"], seen: int
) -> Int64[Tensor, "neurons k"]:
    """(neurons, k); see `reductions.keep_highest`. k is at most 32."""
    values = values if values.stride(-1) == 1 else values.contiguous()
    batch, tokens, neurons = values.shape
    k = keys.shape[1]
    programs = triton.cdiv(batch * tokens, KEPT_ROWS)
    out = torch.empty(programs * k, neurons, dtype=torch.int64, device=values.device)
    with torch.cuda.device(values.device):
        _keep_highest[(triton.cdiv(neurons, KEPT_COLUMNS), programs)](
            values,
            keys,
            out,
            tokens,
            batch * tokens,
            neurons,
            seen,
            values.stride(0),
            values.stride(1),
            K=k,
            SLOTS=triton.next_power_of_2(k),
            ROWS=KEPT_ROWS,
            COLUMNS=KEPT_COLUMNS,
            AT_ONCE=KEPT_AT_ONCE,
            num_warps=2,
        )
    return torch.cat([keys, out.T], 1).topk(k, dim=1).values
