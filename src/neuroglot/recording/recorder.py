"""The one pass: text in, a Recording out.

The packed corpus is cut into fixed *shards*, each a run of blocks of one language. A shard's statistics are reduced on
their own and the recording is the sum of the shards in their order, so that the result is the same to the byte
whether the pass ran at once, was interrupted and resumed, or was shared between workers.
"""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import ROUTED, Recording
from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError, validated
from neuroglot.models.model import Model
from neuroglot.progress import reading, token_progress
from neuroglot.recording.engines.local import Engine, LocalEngine
from neuroglot.recording.engines.processes import ProcessEngine
from neuroglot.recording.settings import RecordSettings, keywords
from neuroglot.recording.shard_store import ShardStore
from neuroglot.recording.statistics.gradients import GRADIENTS
from neuroglot.recording.statistics.own import check_statistics, own_statistics
from neuroglot.recording.worker import Work
from neuroglot.storage.digests import shard_name
from neuroglot.tokens.packing import text_of_block
from neuroglot.tokens.shard_stream import PackedText, Shard, in_part
from neuroglot.tokens.shards import Reading

__all__ = ["readings_of", "record", "work_of"]


@keywords(RecordSettings)
def record(model: Model, corpus: Corpus, **settings: Any) -> Recording:
    """Run the text through the model once and keep the statistics of its neurons, by language.

    The language-model head is never run. Documents of a language are joined and packed into blocks; neither BOS nor
    what is left over at the end is counted. The text is never wholly in memory: packed tokens go through the disk.

    A finished recording in `directory` can be asked for more `tokens`: what comes after the recorded text is recorded
    and added. That gives what one pass gives: the same blocks, and the same bytes if the recorded text ended with a
    shard.

    Args:
        model: whose neurons.
        corpus: the text; each of its languages must fill at least one block.
        **settings: see `RecordSettings`.

    Returns:
        The Recording; with `directory`, it is saved there as `recording.safetensors` too, unless it is a part.

    Raises:
        NeuroglotError: a setting is out of range, a language is too short, a statistic is unknown, the partition is of
            another model, an activation is not a number, `directory` holds a recording of another model, text or
            setting, cannot be written, or is being recorded by another process.
    """
    check_is_corpus(corpus)
    asked = validated(RecordSettings, settings)
    engine = asked.engine or (LocalEngine() if model.workers is None else ProcessEngine(model.workers))
    work = work_of(model, asked, engine.batch_tokens(model))
    readers = asked.readers_of(len(corpus.languages))
    with ExitStack() as stack:
        folder = Path(asked.directory or stack.enter_context(TemporaryDirectory(prefix="neuroglot-")))
        readings = readings_of(model, corpus, folder / "text", asked)
        store = ShardStore(folder, _plan(model, corpus, asked, work), extend=True)
        readings = [replace(reading, earlier=store.earlier_text(reading.language)) for reading in readings]
        text = PackedText(readings, model.begin, readers)
        finished = store.finished()
        if finished is None:
            stack.enter_context(store.lock(asked.part))
            finished = store.finished()  # another process may have been just about to
        if finished is not None:
            with reading(asked.progress), text:
                text.wait()
            return finished
        with nullcontext() if readers else reading(asked.progress):
            stack.enter_context(text)
        _record_missing(model, work, text, store, engine, asked)
        shards = map(store.get, _shard_names(text, asked.part))
        if asked.part != (1, 1):
            return Recording.merge(shards)
        recording = Recording.merge(chain(store.earlier(), shards))
        store.finish(recording)
        return recording


def _record_missing(
    model: Model, work: Work, text: PackedText, store: ShardStore, engine: Engine, asked: RecordSettings
) -> None:
    """Record the shards of the part that are not in the store, and put them there."""
    size = asked.blocks_of_shard * asked.block
    bar = token_progress("recording", lambda: text.total // asked.part[1], shown=asked.progress)
    with bar as advance:

        def missing() -> Iterator[Shard]:
            for shard in text.shards(asked.part):
                if store.has(shard.name):
                    advance(size, shard.language)
                else:
                    yield shard

        for name, recording in engine.run(model, work, missing(), advance):
            store.put(name, recording)


def _shard_names(text: PackedText, part: tuple[int, int]) -> list[str]:
    """The shards of the part that no earlier pass recorded, in the order in which they are added."""
    names = [
        shard_name(reading.language, index, digest)
        for place, reading in enumerate(text.readings)
        for index, digest in enumerate(text.wait()[reading.language].shards)
        if in_part(place, index, part) and index >= reading.recorded_earlier
    ]
    if not names and part != (1, 1):
        raise NeuroglotError(f"Part {part[0]} of {part[1]} is empty: there are fewer shards than parts.")
    return names


def _plan(model: Model, corpus: Corpus, asked: RecordSettings, work: Work) -> dict[str, Any]:
    """All that decides the recording but the text, as `plan.json` keeps it."""
    experts = work.experts(model)
    plan: dict[str, Any] = {
        **work.provenance.plain(),
        "statistics": [*work.statistics, *(experts.names if experts else ()), *([ROUTED] if model.mixtures else [])],
        "languages": list(corpus.languages),
        "tokens": asked.tokens,
        "batch_tokens": work.batch_tokens,
        "shard_tokens": asked.shard_size,
    }
    if asked.examples:
        plan["examples"] = asked.examples
    return plan


def work_of(model: Model, asked: RecordSettings, batch_tokens: int) -> Work:
    """What workers are to do, checked.

    Args:
        model: whose neurons.
        asked: of the pass.
        batch_tokens: tokens a forward pass, unless the settings say so.

    Raises:
        NeuroglotError: a statistic is unknown, the partition is of another model, `top` names no number of its experts.
    """
    check_statistics(asked.statistics)
    model.check_state(edited=False)
    if not asked.statistics:
        raise NeuroglotError("No statistic is to be recorded; name one at least.")
    if asked.partition is not None:
        model.check_dense("its experts are its own", "record it without a partition and see routed")
        asked.partition.check(model)
    own = own_statistics(asked.statistics)
    provenance = Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        tokenizer=model.tokenizer_fingerprint,
        block=asked.block,
        partition=asked.partition.digest if asked.partition else None,
        own={each.name: each.kept for each in own},
        dtype=model.dtype,
    )
    size = asked.batch_tokens or batch_tokens
    work = Work(asked.statistics, asked.partition, asked.top, size, provenance, asked.examples, own)
    work.check(model)
    if set(GRADIENTS) & set(asked.statistics):
        model.check_dense("gradients of its neurons are not taken", f"leave {' and '.join(GRADIENTS)} out")
    return work


def readings_of(
    model: Model, corpus: Corpus, folder: Path, asked: RecordSettings, only: int | None = None
) -> list[Reading]:
    """How each language is to be read; the tokens of so many shards `only` are kept."""
    text = text_of_block(model, asked.block)
    return [
        Reading(
            folder, tag, corpus[tag], model.tokenizer, model.vocabulary, model.name, asked.tokens, asked.block, text,
            asked.blocks_of_shard, only,
        )
        for tag in corpus.languages
    ]  # fmt: skip
