"""Sums over tokens, and the highest of them, which is all that recording does to an activation.

On a CUDA device with Triton these are kernels that read each activation once, so that their cost is the bytes of the
activation over the memory's bandwidth. Elsewhere they are plain torch, in the order in which memory lies: first within
each sequence, then over them; that is also what the kernels are tested against.
"""

import importlib.util
import threading
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot, pad

from neuroglot.artifacts.examples import LOW, VALUE

__all__ = ["SUMS", "Groups", "Values", "count_highest", "keep_highest", "standardise", "sum_states", "sum_tokens"]

TRITON = importlib.util.find_spec("triton") is not None
TOKENS_AT_ONCE = 4096  # that are ranked in plain torch, which copies their scores several times
VALUES_AT_ONCE = 1 << 24  # likewise, of neurons' own

Values = Float[Tensor, "batch tokens neurons"]


def _count(activation: Values, hidden: Values) -> Int64[Tensor, " neurons"]:
    """On how many tokens the activation is above zero; exact."""
    # Ones are summed as float32, which is exact to 16.7 M tokens a sequence and five times as fast as summing booleans.
    return torch.gt(activation, 0, out=_buffer(activation)).sum(1).to(torch.int64).sum(0)


def _added(values: Values) -> Float[Tensor, " neurons"]:
    return values.sum(1, dtype=torch.float64).sum(0)


# What is summed over tokens, by name: whether the activation is above zero, the activation, what enters the
# down-projection (hidden), and its absolute value.
SUMS: dict[str, Callable[[Values, Values], Tensor]] = {
    "active": _count,
    "activation": lambda activation, hidden: _added(activation),
    "hidden": lambda activation, hidden: _added(hidden),
    "magnitude": lambda activation, hidden: _added(hidden.abs()),
}


def sum_tokens(activation: Values, hidden: Values, names: Sequence[str]) -> list[Tensor]:
    """The sums over batch and tokens that `SUMS` names, (neurons,) each; int64 for counts, float64 for the others."""
    if TRITON and activation.is_cuda:
        from neuroglot.recording.statistics import kernels

        return kernels.sum_tokens(activation, hidden, names)
    return [SUMS[name](activation, hidden) for name in names]


def sum_states(states: Values) -> Float[Tensor, " width"]:
    """The sum over batch and tokens of the residual stream, (width,) float64."""
    return _added(states)


class Groups:
    """Sums over groups of neurons, token by token.

    On a CPU the values of a group are gathered and added in float64. On a CUDA device they are multiplied with the
    table of who belongs where, a matrix product whose sums are float32: 1.4 % of a Llama layer's arithmetic, where a
    gather would read memory a few bytes at a time.

    Args:
        labels: the group of each neuron.
        groups: how many there are.
    """

    def __init__(self, labels: Int64[Tensor, " neurons"], groups: int):
        self.labels, self.groups = labels, groups
        self._sizes = labels.bincount(minlength=groups)
        self._largest = int(self._sizes.max())
        self._table: Tensor | None = None

    @cached_property
    def _slots(self) -> Int64[Tensor, "groups size"]:
        """A group's neurons; where it has fewer than the largest, one that does not exist and counts 0."""
        order = self.labels.argsort(stable=True)
        begins = (self._sizes.cumsum(0) - self._sizes)[self.labels[order]]
        slots = torch.full((self.groups, self._largest), len(self.labels))
        slots[self.labels[order], torch.arange(len(order)) - begins] = order
        return slots

    def sum(self, values: Values) -> Float[Tensor, "all_tokens groups"]:
        """The sums, of all sequences one after the other; float64 on a CPU and float32 on a CUDA device."""
        if values.is_cuda:
            if self._table is None or self._table.device != values.device or self._table.dtype != values.dtype:
                self._table = one_hot(self.labels.to(values.device), self.groups).to(values.dtype)
            # as one product a sequence: without BOS they do not lie side by side, and flattening would copy all of them
            table = self._table.expand(len(values), *self._table.shape)
            if values.dtype == torch.float32:
                return torch.bmm(values, table).flatten(0, 1)
            return torch.bmm(values, table, out_dtype=torch.float32).flatten(0, 1)
        values = values.flatten(0, 1)
        if self._slots.numel() > values.shape[1]:
            values = pad(values, (0, 1))
        picked = values.index_select(1, self._slots.flatten()).view(len(values), *self._slots.shape)
        return picked.sum(2, dtype=torch.float64)


def standardise(scores: Float[Tensor, "tokens groups"], out: Float[Tensor, "tokens groups"]) -> None:
    """Write each token's z-scores over the groups (population σ; 0 where all are equal) into `out`."""
    if TRITON and scores.is_cuda:
        from neuroglot.recording.statistics import kernels

        return kernels.standardise(scores, out)
    apart = scores - scores[:, :1]  # of equal scores exactly 0, as the distance from their mean need not be
    apart = apart - apart.mean(1, keepdim=True)
    spread = apart.square().mean(1, keepdim=True).sqrt()
    out.copy_(torch.where(spread > 0, apart / spread, 0.0))
    return None


def count_highest(scores: Float[Tensor, "tokens all"], size: int) -> Int64[Tensor, " all"]:
    """On how many tokens each is among the `size` highest; of equal scores those that come first."""
    if TRITON and scores.is_cuda and scores.shape[1] <= 1 << 15:  # a token's scores fit a program's registers
        from neuroglot.recording.statistics import kernels

        return kernels.count_highest(scores, size)
    counts = torch.zeros(scores.shape[1], dtype=torch.int64, device=scores.device)
    for some in scores.split(TOKENS_AT_ONCE):
        least = some.kthvalue(some.shape[1] - size + 1, dim=1, keepdim=True).values
        chosen = some >= least
        if bool((chosen.sum(1) > size).any()):  # more than there is room for, all of them equal to the least
            above, equal = some > least, some == least
            chosen = above | (equal & (equal.cumsum(1) <= size - above.sum(1, keepdim=True)))
        counts += chosen.sum(0)
    return counts


def keep_highest(values: Values, keys: Int64[Tensor, "neurons k"], seen: int) -> Int64[Tensor, "neurons k"]:
    """The k largest keys of every neuron, highest first, from those so far and the values of more tokens.

    A value above zero and its token are one integer, the bits of the value before those of the token counted
    backwards: the larger integer is the higher value or, of equals, the earlier token. Other values have none.

    Args:
        values: of tokens that come after all that were seen.
        keys: the largest so far; 0 where there are fewer than k.
        seen: how many tokens there were before.
    """
    k = keys.shape[1]
    if TRITON and values.is_cuda and k <= 32:
        from neuroglot.recording.statistics import kernels

        return kernels.keep_highest(values, keys, seen)
    values = values.flatten(0, 1)
    least = (keys[:, -1] >> VALUE).to(torch.int32).view(torch.float32)
    # only neurons that have a value above their k-th so far are looked at again, which soon are few
    rows = (values.amax(0).float() > least).nonzero().flatten()
    tokens = torch.arange(seen, seen + len(values), device=values.device)
    for some in rows.split(max(1, VALUES_AT_ONCE // len(values))):
        highest = values.index_select(1, some).T.float().contiguous()
        bits = (highest.clamp_min(0).view(torch.int32).to(torch.int64) << VALUE) | (LOW - tokens)
        bits = torch.where(highest > 0, bits, 0)
        most = torch.cat([keys[some], bits.topk(min(k, len(values)), dim=1).values], 1)
        keys[some] = most.topk(k, dim=1).values
    return keys


_kept = threading.local()


def _buffer(values: Tensor) -> Tensor:
    """A float32 tensor of the same shape, kept from call to call: allocating it would cost more than the sum."""
    buffers: dict[torch.device, Tensor] = _kept.__dict__.setdefault("buffers", {})  # each thread's own
    kept = buffers.get(values.device)
    if kept is None or kept.numel() < values.numel():
        kept = buffers[values.device] = torch.empty(values.numel(), dtype=torch.float32, device=values.device)
    return kept[: values.numel()].view(values.shape)
