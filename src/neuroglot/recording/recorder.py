"""The one pass: text in, a Recording out.

The packed corpus is cut into fixed *shards*, each a run of blocks of one language. A shard's statistics are reduced on
their own and the recording is the sum of the shards in their order, so that the result is the same to the byte
whether the pass ran at once, was interrupted and resumed, or was shared between workers.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from neuroglot.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.ffn import watch
from neuroglot.model import Model
from neuroglot.packing import pack
from neuroglot.progress import token_progress
from neuroglot.recording.experts import Experts
from neuroglot.recording.recording import Provenance, Recording
from neuroglot.recording.statistics import STATISTICS, Statistic
from neuroglot.recording.store import ShardStore

if TYPE_CHECKING:  # which is above: a recording needs only its labels
    from neuroglot.experts import Partition

__all__ = ["Shard", "record"]


@dataclass(frozen=True)
class Shard:
    """A fixed piece of the packed corpus: some blocks of one language."""

    language: str
    index: int
    blocks: Int[Tensor, "blocks block"]

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.language}-{self.index:05d}"

    @property
    def digest(self) -> str:
        """A digest of its tokens."""
        return hashlib.sha256(self.blocks.contiguous().numpy().tobytes()).hexdigest()[:32]


def record(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int = 1_000_000,
    block: int = 512,
    statistics: Sequence[str] = ("active", "activation", "hidden"),
    partition: "Partition | None" = None,
    top: Sequence[float | int] = (0.1,),
    batch_tokens: int | None = None,
    shard_tokens: int = 131_072,
    directory: str | Path | None = None,
    part: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Recording:
    """Run the text through the model once and keep the statistics of its neurons, by language.

    The language-model head is never run. Documents of a language are joined and packed into blocks; neither BOS nor
    what is left over at the end is counted.

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
        batch_tokens: tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU. Another changes sums by
            rounding only, never a shard's tokens.
        shard_tokens: tokens a shard, about; what an interruption can cost at most.
        directory: keep finished shards there, and go on from those that an interrupted run of the same settings left.
        part: (i, n): only every n-th shard, beginning with the i-th (from 1); add the n recordings for the whole.
        progress: show a bar.

    Returns:
        The Recording; with `directory`, it is saved there as `recording.safetensors` too.

    Raises:
        NeuroglotError: a language is too short, a statistic is unknown, the partition is of another model, an
            activation is not a number, or `directory` holds shards of another model, text or setting.
    """
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or not statistics:
        raise NeuroglotError(f"{unknown or 'No statistic'} cannot be recorded; choose among {', '.join(STATISTICS)}.")
    if not 1 <= part[0] <= part[1]:
        raise NeuroglotError(f"part (i, n) needs 1 ≤ i ≤ n, not {part}.")
    if partition is not None:
        partition.check(model)
        experts = Experts(model.ffns, partition.labels, partition.experts, top)
    batch_tokens = batch_tokens or model.batch_tokens
    provenance = Provenance(
        model=model.name,
        fingerprint=model.fingerprint,
        tokenizer=model.tokenizer_fingerprint,
        block=block,
        partition=partition.digest if partition else None,
    )
    shards = list(_shards(model, corpus, tokens, block, shard_tokens))[part[0] - 1 :: part[1]]
    if not shards:
        raise NeuroglotError(f"Part {part[0]} of {part[1]} is empty: there are fewer shards than parts.")
    store = None
    extra = experts.names if partition else ()
    if directory is not None:
        settings = {**provenance.model_dump(), "statistics": [*statistics, *extra], "batch_tokens": batch_tokens}
        store = ShardStore(directory, settings, {shard.name: shard.digest for shard in shards})
        if (whole := store.finished()) is not None:
            return whole
    kept: list[Statistic] = [STATISTICS[name](model.ffns) for name in statistics]
    if partition is not None:
        kept.append(experts)
    with token_progress("recording", sum(shard.blocks.numel() for shard in shards), shown=progress) as advance:

        def finished() -> Iterator[Recording]:
            for shard in shards:
                if store is not None and (done := store.get(shard.name)) is not None:
                    advance(shard.blocks.numel(), shard.language)
                else:
                    done = _record_shard(model, shard, kept, batch_tokens, provenance, advance)
                    if store is not None:
                        store.put(shard.name, done)
                yield done

        recording = Recording.merge(finished())
    if store is not None:
        store.finish(recording)
    return recording


def _shards(model: Model, corpus: Corpus, tokens: int, block: int, shard_tokens: int) -> Iterator[Shard]:
    size = max(1, shard_tokens // block)
    # Reading and tokenising may take a while on large corpora, and has no known end to measure progress by.
    with Console(stderr=True).status("reading the corpus"):
        for language in corpus.languages:
            blocks = pack(model, corpus[language], language, block=block, tokens=tokens)
            for index, piece in enumerate(blocks.split(size)):
                yield Shard(language, index, piece)


@torch.inference_mode()
def _record_shard(
    model: Model,
    shard: Shard,
    kept: Sequence[Statistic],
    batch_tokens: int,
    provenance: Provenance,
    advance: Callable[[int, str], None],
) -> Recording:
    first = 0 if model.bos is None else 1
    shape = (0, 0)

    def observe(layer: int, activation: Tensor, hidden: Tensor) -> None:
        # (batch, length, neurons), also where a family flattens its tokens; without BOS
        activation = activation.view(*shape, -1)[:, first:]
        hidden = hidden.view(*shape, -1)[:, first:]
        for statistic in kept:
            statistic.add(layer, activation, hidden)

    sound = torch.ones((), dtype=torch.bool, device=model.device)
    with watch(model.ffns, observe):
        for batch in shard.blocks.to(model.device).split(max(1, batch_tokens // shard.blocks.shape[1])):
            shape = (batch.shape[0], batch.shape[1])
            states = model.body(batch)
            sound &= torch.isfinite(states).all().to(sound.device)
            advance(batch.numel(), shard.language)
    if not bool(sound):
        raise NeuroglotError(
            f"{model.name} gives hidden states that are not numbers (NaN or infinite) on text in {shard.language}; "
            "load it in float32 or bfloat16, or check its weights."
        )
    count = shard.blocks.shape[0] * (shard.blocks.shape[1] - first)
    return Recording(
        (shard.language,),
        torch.tensor([count]),
        {name: sums.unsqueeze(-1) for statistic in kept for name, sums in statistic.take().items()},
        provenance,
    )
