"""The one pass: text in, a Recording out.

The packed corpus is cut into fixed *shards*, each a run of blocks of one language. A shard's statistics are reduced on
their own and the recording is the sum of the shards in their order, so that the result is the same to the byte
whether the pass ran at once, was interrupted and resumed, or was shared between workers.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from neuroglot.artifacts.recording import Provenance, Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.progress import reading, token_progress
from neuroglot.recording.engines.local import Engine, LocalEngine
from neuroglot.recording.shard_store import ShardStore
from neuroglot.recording.statistics.experts import Experts
from neuroglot.recording.statistics.sums import STATISTICS
from neuroglot.recording.worker import Work
from neuroglot.storage.digests import shard_name
from neuroglot.tokens.packing import text_of_block
from neuroglot.tokens.shard_stream import PackedText, Shard, in_part
from neuroglot.tokens.shards import Reading

if TYPE_CHECKING:  # which is above: a recording needs only its labels
    from neuroglot.artifacts.partition import Partition

__all__ = ["record", "shard_size", "work_on"]

LONG = 2_000_000  # tokens of a language from which reading it ahead of the model is worth processes of its own


def record(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int = 1_000_000,
    block: int = 512,
    statistics: Sequence[str] = ("active", "activation", "hidden"),
    partition: "Partition | None" = None,
    top: Sequence[float | int] = (0.1,),
    examples: int = 0,
    batch_tokens: int | None = None,
    shard_tokens: int | None = None,
    directory: str | Path | None = None,
    part: tuple[int, int] = (1, 1),
    engine: Engine | None = None,
    readers: int | None = None,
    progress: bool = True,
) -> Recording:
    """Run the text through the model once and keep the statistics of its neurons, by language.

    The language-model head is never run. Documents of a language are joined and packed into blocks; neither BOS nor
    what is left over at the end is counted. The text is never wholly in memory: packed tokens go through the disk.

    Args:
        model: whose neurons.
        corpus: the text; each of its languages must fill at least one block.
        tokens: at most so many tokens of each language.
        block: tokens a block, with BOS.
        statistics: what to keep: `active` (counts), `activation` and `hidden` (sums at the two sites), `magnitude`
            (sums of |hidden|).
        partition: count on how many tokens each of its experts is activated, too; see `ng.experts.frequencies`.
        top: which experts of a token are activated: the share of all that score highest, or (an integer) how many.
            Each entry is counted on its own, in one pass.
        examples: keep so many of each neuron's most active tokens in each language; see `Examples`. Their words are
            read from the shards' tokens, which then stay in `directory`.
        batch_tokens: tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU. Another changes sums by
            rounding only, never a shard's tokens.
        shard_tokens: tokens a shard, about; what an interruption can cost at most. By default 131,072, or a 64th of
            `tokens` where that is more.
        directory: keep finished shards there, and go on from those that an interrupted run of the same settings left.
        part: (i, n): only every n-th shard, beginning with the i-th (from 1). Its shards stay in `directory`, where
            all parts may be recorded at once, until `neuroglot.recording.merge` adds them up.
        engine: who does the work: by default this process; a `RayEngine` has workers, here or on a cluster.
        readers: processes that read and tokenise ahead of the model, a language each; 0 reads all the text first. By
            default 0 up to two million tokens of a language, else at most half as many as there are cores.
        progress: show a bar.

    Returns:
        The Recording; with `directory`, it is saved there as `recording.safetensors` too, unless it is a part.

    Raises:
        NeuroglotError: a language is too short, a statistic is unknown, the partition is of another model, an
            activation is not a number, `directory` holds a recording of another model, text or setting, cannot be
            written, or is being recorded by another process.
    """
    if not 1 <= part[0] <= part[1]:
        raise NeuroglotError(f"part (i, n) needs 1 ≤ i ≤ n, not {part}.")
    engine = engine or LocalEngine()
    work = work_on(model, block, statistics, partition, top, batch_tokens or engine.batch_tokens(model), examples)
    size = shard_size(tokens, shard_tokens)
    if readers is None:
        readers = min(len(corpus.languages), max(1, (os.cpu_count() or 1) // 2)) if tokens > LONG else 0
    settings: dict[str, Any] = {
        **work.provenance.model_dump(),
        "statistics": [*statistics, *(_experts(model, partition, top).names if partition else ())],
        "languages": list(corpus.languages),
        "tokens": tokens,
        "batch_tokens": work.batch_tokens,
        "shard_tokens": size,
    }
    if examples:
        settings["examples"] = examples
    with ExitStack() as stack:
        folder = directory or stack.enter_context(TemporaryDirectory(prefix="neuroglot-"))
        readings = readings_of(model, corpus, Path(folder) / "text", tokens, block, size)
        store = ShardStore(folder, settings)
        done = store.finished()
        if done is None:
            stack.enter_context(store.lock(part))
            done = store.finished()  # another process may have been just about to
        if done is not None:
            with reading(progress), PackedText(readings, model.bos, readers) as text:
                text.wait()
            return done
        with ExitStack() as first:
            if not readers:
                first.enter_context(reading(progress))
            text = stack.enter_context(PackedText(readings, model.bos, readers))
        size = max(1, size // block) * block
        bar = token_progress("recording", lambda: text.total // part[1], shown=progress)
        with bar as advance:

            def missing() -> Iterator[Shard]:
                for shard in text.shards(part):
                    if store.has(shard.name):
                        advance(size, shard.language)
                    else:
                        yield shard

            for name, recording in engine.run(model, work, missing(), advance):
                store.put(name, recording)
        names = [
            shard_name(tag, index, digest)
            for place, tag in enumerate(corpus.languages)
            for index, digest in enumerate(text.wait()[tag].shards)
            if in_part(place, index, part)
        ]
        if not names:
            raise NeuroglotError(f"Part {part[0]} of {part[1]} is empty: there are fewer shards than parts.")
        recording = Recording.merge(store.get(name) for name in names)
        if part == (1, 1):
            store.finish(recording)
        return recording


def work_on(
    model: Model,
    block: int,
    statistics: Sequence[str],
    partition: "Partition | None",
    top: Sequence[float | int],
    batch_tokens: int | None,
    examples: int = 0,
) -> Work:
    """What workers are to do, checked."""
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or not statistics:
        raise NeuroglotError(f"{unknown or 'No statistic'} cannot be recorded; choose among {', '.join(STATISTICS)}.")
    if examples < 0:
        raise NeuroglotError(f"examples must be 0 or more a neuron, not {examples}.")
    if partition is not None:
        partition.check(model)
        _experts(model, partition, top)
    provenance = Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        tokenizer=model.tokenizer_fingerprint,
        block=block,
        partition=partition.digest if partition else None,
    )
    return Work(tuple(statistics), partition, tuple(top), batch_tokens or model.batch_tokens, provenance, examples)


def _experts(model: Model, partition: "Partition", top: Sequence[float | int]) -> Experts:
    return Experts(model.ffns, partition.labels, partition.experts, top)


def shard_size(tokens: int, shard_tokens: int | None) -> int:
    """Tokens a shard: with a 64th of a long text, as many shards of a language as there is any use for."""
    return shard_tokens or max(131_072, tokens // 64)


def readings_of(
    model: Model, corpus: Corpus, folder: Path, tokens: int, block: int, size: int, only: int | None = None
) -> list[Reading]:
    """How each language is to be read."""
    text = text_of_block(model, block)
    return [
        Reading(
            folder, tag, corpus[tag], model.tokenizer, model.vocabulary, model.name, tokens, block, text,
            blocks=max(1, size // block), only=only,
        )
        for tag in corpus.languages
    ]  # fmt: skip
