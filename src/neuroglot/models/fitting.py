"""Memory of a device that other jobs take from: what does not fit is done again with half as much at once.

How much is free is known when a pass begins, and another job on the same card may take it afterwards. So an
out-of-memory error is no end: nothing that is finished is lost, and the rest goes on in halves.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.models.model import Model

__all__ = ["fitting_batches", "fitting_tokens", "halving", "rows_within", "when_full"]

T = TypeVar("T")

_fits: "WeakKeyDictionary[nn.Module, int]" = WeakKeyDictionary()
"""Tokens a pass, of networks whose device was full once: the next pass need not find it out again."""
_release: list[Callable[[], None]] = []


def when_full(release: Callable[[], None]) -> None:
    """Have this called when a device is full: it lets go of what is only kept for speed."""
    _release.append(release)


def halving(run: Callable[[int], T], size: int, *, least: int = 1, what: str = "tokens") -> T:
    """What `run` gives for a size, or for half of it, a quarter … where the device has no memory for more.

    Args:
        run: it begins anew with each size, or goes on from what it has finished.
        size: how much is done at once.
        least: where halving ends. There it is tried twice, since memory is given back in between.
        what: the size is a number of.

    Raises:
        NeuroglotError: there is no memory for the least either.
    """
    last = False
    while True:
        try:
            return run(size)
        except torch.OutOfMemoryError:
            full, last = last, size <= least
        # here, since the exception holds the frames that it came from, and they hold tensors
        for release in _release:
            release()
        gc.collect()
        torch.cuda.empty_cache()
        if full:
            raise NeuroglotError(
                f"The device has no memory left for {size:,} {what} at once, the least that can be done; end other "
                "jobs on it, or choose another device."
            )
        before, size = size, max(least, size // 2)
        if size < before:
            warnings.warn(
                f"The device has no memory left for {before:,} {what} at once, which another job may have taken; it "
                f"goes on with {size:,}. Numbers may differ in rounding.",
                NeuroglotWarning,
                stacklevel=2,
            )


def fitting_tokens(model: Model, run: Callable[[int], T], tokens: int | None, *, least: int = 1) -> T:
    """The same for a forward pass of so many tokens, by default as many as keep the device busy.

    What fits is kept for the passes that follow.
    """
    wanted = tokens or model.batch_tokens

    def kept(size: int) -> T:
        if size < wanted:
            _fits[model.network] = size
        return run(size)

    return halving(kept, max(least, min(wanted, _fits.get(model.network, wanted))), least=least)


def rows_within(order: Sequence[int], lengths: Sequence[int], tokens: int) -> list[int]:
    """The first rows, which are in the order of their lengths, that padded to the longest have at most so many tokens.

    One row at least.
    """
    some = [order[0]]
    for row in order[1:]:
        if max(lengths[order[0]], lengths[row]) * (len(some) + 1) > tokens:
            break
        some.append(row)
    return some


def fitting_batches(
    model: Model, blocks: Tensor, batch_tokens: int | None, run: Callable[[slice], T]
) -> Iterator[tuple[Tensor, T]]:
    """Blocks, some after another, and what `run` gives for them, as many at once as there is memory for.

    Args:
        model: that reads them.
        blocks: (blocks, tokens).
        batch_tokens: at most so many at once, and one block at least.
        run: it reads these blocks and keeps nothing until it ends.
    """
    start, width = 0, blocks.shape[1]

    def some(first: int, tokens: int) -> tuple[slice, T]:
        part = slice(first, first + max(1, tokens // width))
        return part, run(part)

    while start < len(blocks):
        part, made = fitting_tokens(model, partial(some, start), batch_tokens, least=width)
        yield blocks[part], made
        start = part.stop
