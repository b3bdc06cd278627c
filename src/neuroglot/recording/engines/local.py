"""Where shards are recorded: the interface of engines, and this process."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Protocol

from neuroglot.artifacts.recording import Recording
from neuroglot.models.model import Model
from neuroglot.recording.worker import Advance, Work, begin_shard
from neuroglot.tokens.shard_stream import Shard

__all__ = ["Engine", "LocalEngine"]


class Engine(Protocol):
    """Where shards are recorded: in this process, or on workers."""

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass, unless the settings say so."""

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, in any order, as they are finished."""


class LocalEngine:
    """In this process, one shard after the other.

    On a GPU the next shard is under way while one is taken from the device and stored, so that no device waits.

    Args:
        ahead: how many shards are under way when one is taken; by default 1 on a GPU and none on a CPU.
    """

    def __init__(self, ahead: int | None = None):
        self.ahead = ahead

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass that keep the model's device busy."""
        return model.batch_tokens

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, in order."""
        ahead = int(model.device.type == "cuda") if self.ahead is None else self.ahead
        sums = cycle([work.kept(model) for _ in range(1 + ahead)])
        begun: list[tuple[str, Callable[[], Recording]]] = []
        for shard in shards:
            begun.append((shard.name, begin_shard(model, shard, next(sums), work, advance)))
            if len(begun) > ahead:
                name, finished = begun.pop(0)
                yield name, finished()
        for name, finished in begun:
            yield name, finished()
