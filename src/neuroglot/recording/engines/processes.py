"""Recording by a model's workers: other processes of this machine, one a GPU. See `models/workers.py`."""

from collections.abc import Iterator

from neuroglot.artifacts.recording import Recording
from neuroglot.models.crew import Crew
from neuroglot.models.model import Model
from neuroglot.recording.worker import Advance, Work, record_shard
from neuroglot.tokens.shard_stream import Shard

__all__ = ["ProcessEngine"]


class ProcessEngine:
    """The workers of a model. Shards are those of one process, so the recording is the same to the byte."""

    def __init__(self, workers: Crew):
        self.workers = workers

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass: as in this process."""
        return model.batch_tokens

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, in order.

        Raises:
            NeuroglotError: the workers cannot open the model, or die again and again.
        """
        given: list[Shard] = []  # that are not back yet

        def jobs() -> Iterator[tuple[Shard, Work]]:
            for shard in shards:
                given.append(shard)
                yield shard, work

        for recording in self.workers.run(_record, jobs()):
            shard = given.pop(0)
            advance(shard.blocks.numel(), shard.language)
            yield shard.name, recording


def _record(model: Model, shard: Shard, work: Work) -> Recording:
    """What a worker does with a shard."""
    return record_shard(model, shard, work.kept(model), work)
