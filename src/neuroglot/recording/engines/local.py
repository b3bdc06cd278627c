"""Where shards are recorded: the interface of engines, and this process."""

from collections.abc import Iterator
from typing import Protocol

from neuroglot.artifacts.recording import Recording
from neuroglot.models.model import Model
from neuroglot.recording.worker import Advance, Work, record_shard
from neuroglot.tokens.shard_stream import Shard

__all__ = ["Engine", "LocalEngine"]


class Engine(Protocol):
    """Where shards are recorded: here, or on workers elsewhere."""

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass, unless told otherwise."""

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, in any order, as they are finished."""


class LocalEngine:
    """In this process, one shard after the other."""

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass that keep the model's device busy."""
        return model.batch_tokens

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, in order."""
        kept = work.kept(model)
        for shard in shards:
            yield shard.name, record_shard(model, shard, kept, work, advance)
