"""What a recording will take: bytes by formula, shards by reading the text, time by running a little of it.

The formulas, with L layers of N neurons, K languages, c kept sums, E experts a layer counted at t entries of `top`, e
examples of a neuron, S shards, T tokens of text in all languages, n samples of a parallel corpus and d the width of the
residual stream:

    s = 8 · L · (c · N + t · E) + 12 · L · N · e            the statistics of one language
    recording, in memory and on disk        K · (s + 8)
    while shards are added                  (K + 1) · s + 8 · K · L · N
    shards on disk                          S · s
    packed tokens on disk                   4 · T           (they stay where there are examples)
    a worker, beside model and activations  2 · s + 4 · b · N + 16 · min(b, 4096) · t · L · E   (b tokens a pass)
    samples of a parallel corpus            4 · K · n · L · (N + d)
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import validated
from neuroglot.models.model import Model
from neuroglot.recording.recorder import readings_of, work_of
from neuroglot.recording.settings import RecordSettings, keywords
from neuroglot.recording.shard_store import recorded_text
from neuroglot.recording.worker import Work, record_shard
from neuroglot.storage.digests import shard_name
from neuroglot.tokens.packing import text_of_block
from neuroglot.tokens.shard_stream import PackedText, Shard

__all__ = ["Footprint", "Forecast", "forecast"]

SECONDS = 30.0  # after which timing stops, if one shard takes longer


@dataclass(frozen=True)
class Footprint:
    """Bytes, by the formulas of this module (headers of files, a few KB each, are not in them)."""

    layers: int
    """L."""
    neurons: int
    """N, a layer."""
    languages: int
    """K."""
    sums: int = 3
    """c: how many of active, activation, hidden, magnitude are kept."""
    experts: int = 0
    """E, a layer; 0 if they are not counted."""
    tops: int = 1
    """t: at how many entries of `top` they are counted."""
    examples: int = 0
    """e: how many are kept of a neuron and language."""
    shards: int = 0
    """S."""
    tokens: int = 0
    """T: tokens of text, all languages together."""
    batch_tokens: int = 1024
    """b: tokens a forward pass."""
    width: int = 0
    """d: of the residual stream."""

    @property
    def language(self) -> int:
        """s: the statistics of one language, and so of one shard."""
        sums = 8 * self.layers * (self.sums * self.neurons + self.tops * self.experts)
        return sums + 12 * self.layers * self.neurons * self.examples

    @property
    def recording(self) -> int:
        """The Recording, in memory and on disk."""
        return self.languages * (self.language + 8)

    @property
    def adding(self) -> int:
        """In memory at most while the shards are added."""
        return (self.languages + 1) * self.language + 8 * self.languages * self.layers * self.neurons

    @property
    def shards_on_disk(self) -> int:
        """All shards, which last until the recording is finished."""
        return self.shards * self.language

    @property
    def tokens_on_disk(self) -> int:
        """The packed tokens, if all are read before any is recorded."""
        return 4 * self.tokens

    @property
    def worker(self) -> int:
        """On a worker's devices at most, beside the model and its activations: two shards are under way on a GPU."""
        ranked = 16 * min(self.batch_tokens, 4096) * self.tops * self.layers * self.experts
        return 2 * self.language + 4 * self.batch_tokens * self.neurons + ranked

    def samples(self, samples: int) -> int:
        """What `record_samples` keeps of so many samples, with their states."""
        return 4 * self.languages * samples * self.layers * (self.neurons + self.width)


@dataclass(frozen=True)
class Forecast:
    """What a recording will take."""

    footprint: Footprint
    """Bytes."""
    shards: dict[str, int]
    """How many are to be recorded, by language."""
    timed: int
    """Tokens that were run to know the rate."""
    rate: float
    """Tokens a second, of one worker."""
    total: int
    """Tokens to run, BOS among them."""
    recorded: int = 0
    """Tokens of text that are recorded already, in all languages."""

    def seconds(self, workers: int = 1) -> float:
        """How long it will take so many workers like this one."""
        return self.total / self.rate / workers if self.total else 0.0


@keywords(RecordSettings)
def forecast(model: Model, corpus: Corpus, **settings: Any) -> Forecast:
    """Read the text, time the first shard (or half a minute of it), and keep nothing.

    What `directory` holds already, finished or interrupted, is not counted. Nothing in it is changed.

    Args:
        model: as for `record`.
        corpus: as for `record`.
        **settings: see `RecordSettings`.

    Raises:
        NeuroglotError: what `record` would refuse.
    """
    asked = validated(RecordSettings, settings)
    work = work_of(model, asked, model.batch_tokens)
    with TemporaryDirectory(prefix="neuroglot-") as folder:
        readings = readings_of(model, corpus, Path(folder) / "text", asked, only=1)
        before = {} if asked.directory is None else recorded_text(Path(asked.directory))
        readings = [replace(reading, earlier=before.get(reading.language)) for reading in readings]
        with PackedText(readings, model.begin, 0) as text:
            first = next(text.shards(), None)
            read = text.wait()
            total = text.total
    left = {reading.language: read[reading.language].shards[reading.recorded_earlier :] for reading in readings}
    new = {tag: read[tag].tokens - (before[tag].tokens if tag in before else 0) for tag in left}
    size = asked.blocks_of_shard * text_of_block(model, asked.block)
    if asked.directory is not None:  # of a pass that was interrupted
        store = Path(asked.directory) / "shards"
        for reading in readings:
            tag, begun = reading.language, reading.recorded_earlier
            names = [shard_name(tag, begun + index, digest) for index, digest in enumerate(left[tag])]
            there = [name for name in names if (store / f"{name}.safetensors").is_file()]
            left[tag] = left[tag][len(there) :]
            rest = max(0, new[tag] - size * len(there)) if left[tag] else 0
            total -= (new[tag] - rest) // reading.text * reading.block
            new[tag] = rest
    timed, spent = (0, 1.0) if first is None else _time(model, work, first)
    footprint = Footprint(
        model.layers,
        model.neurons,
        len(corpus.languages),
        len(work.statistics),
        work.partition.experts if work.partition else 0,
        len(work.top),
        work.examples,
        sum(map(len, left.values())),
        sum(new.values()),
        work.batch_tokens,
        int(model.text_config.hidden_size),
    )
    shards = {tag: len(each) for tag, each in left.items()}
    recorded = sum(each.tokens for each in read.values()) - sum(new.values())
    return Forecast(footprint, shards, timed, timed / spent, total, recorded)


def _time(model: Model, work: Work, shard: Shard) -> tuple[int, float]:
    """Run a shard, or half a minute of it: how many tokens, in how many seconds."""
    kept = work.kept(model)
    batches = shard.blocks.split(max(1, work.batch_tokens // shard.blocks.shape[1]))
    record_shard(model, Shard(shard.language, 0, "", batches[0]), kept, work)  # the first pass is slow on any device
    timed, spent = 0, 0.0
    for batch in batches:
        begun = time.perf_counter()
        record_shard(model, Shard(shard.language, 0, "", batch), kept, work)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        spent += time.perf_counter() - begun
        timed += batch.numel()
        if spent > SECONDS:
            break
    return timed, spent
