"""What a worker does: run the blocks of one shard through the model and keep their statistics.

On a GPU a shard is begun, and its statistics are asked for later: meanwhile the next one is under way.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import HEADS, RESIDUAL, Recording
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.devices import Lane, devices_of, sent
from neuroglot.models.architecture.hooks import (
    observe_ffn,
    observe_heads,
    observe_parts,
    observe_residual,
    observe_routing,
)
from neuroglot.models.fitting import fitting_tokens
from neuroglot.models.model import Model
from neuroglot.recording.statistics.examples import TopExamples, examples_of_shard
from neuroglot.recording.statistics.experts import Experts
from neuroglot.recording.statistics.gradients import GRADIENTS, GradientSums
from neuroglot.recording.statistics.heads import HeadSums
from neuroglot.recording.statistics.output import OUTPUT, OutputChange
from neuroglot.recording.statistics.own import OwnStatistic, OwnSums
from neuroglot.recording.statistics.routing import Routed
from neuroglot.recording.statistics.sums import Statistic, StreamSums, Sums
from neuroglot.tokens.shard_stream import Shard

__all__ = ["Work", "begin_shard", "record_shard"]

Advance = Callable[[int, str], None]
Kept = Statistic | StreamSums | HeadSums | GradientSums


@dataclass(frozen=True)
class Work:
    """What is kept of every shard, and how; the same for all workers."""

    statistics: tuple[str, ...]
    partition: Partition | None
    top: tuple[float | int, ...]
    batch_tokens: int
    provenance: Provenance
    examples: int = 0
    own: tuple[OwnStatistic, ...] = ()

    def experts(self, model: Model) -> Experts | None:
        """The counts of the partition's experts, empty, if there is a partition."""
        if self.partition is None:
            return None
        return Experts(model.ffns, self.partition.labels, self.partition.experts, self.top)

    def check(self, model: Model) -> None:
        """Refuse a `top` that the partition's experts cannot have, before any text is read.

        Raises:
            NeuroglotError: as said.
        """
        self.experts(model)

    def kept(self, model: Model) -> list[Kept]:
        """The statistics, empty."""
        kept: list[Kept] = [Sums(model.ffns, self.statistics), *(OwnSums(model.ffns, each) for each in self.own)]
        if experts := self.experts(model):
            kept.append(experts)
        if self.examples:
            kept.append(TopExamples(model.ffns, self.examples))
        if RESIDUAL in self.statistics:
            kept.append(StreamSums(model.layers))
        if HEADS in self.statistics:
            kept.append(HeadSums(model.attentions))
        if OUTPUT in self.statistics:
            kept.append(OutputChange(model.ffns))
        heads = model.attentions if HEADS in self.statistics else ()
        kept += [GradientSums(model.layers, name, heads) for name in GRADIENTS if name in self.statistics]
        return kept


def _routed_examples(examples: TopExamples, first: int, layer: int, weights: Tensor) -> None:
    examples.route(layer, weights[:, first:])


def record_shard(
    model: Model,
    shard: Shard,
    kept: list[Kept],
    work: Work,
    advance: Advance = lambda tokens, what: None,
) -> Recording:
    """The statistics of one shard, read again with half the batch where the device has no memory for it.

    Args:
        model: that reads it.
        shard: the blocks.
        kept: the statistics, empty; they are empty again afterwards.
        work: how.
        advance: called with the tokens that were read, and their language.

    Raises:
        NeuroglotError: an activation is not a number.
    """
    return begin_shard(model, shard, kept, work, advance)()


def begin_shard(
    model: Model,
    shard: Shard,
    kept: list[Kept],
    work: Work,
    advance: Advance = lambda tokens, what: None,
) -> Callable[[], Recording]:
    """Give the model's devices a shard, and what waits for its statistics, to be called once.

    `kept` is the shard's until then: what is begun meanwhile has others. Arguments and errors are those of
    `record_shard`; that an activation is not a number is said later.
    """
    done: list[int] | None = None

    def begin(batch_tokens: int) -> Callable[[], Recording]:
        nonlocal done
        if done is not None:  # an attempt that was given up: layers before the one that failed hold its sums
            kept[:] = work.kept(model)
            advance(-sum(done), shard.language)
        done = []
        return _begun(model, shard, kept, replace(work, batch_tokens=batch_tokens), advance, done)

    return fitting_tokens(model, begin, work.batch_tokens, least=shard.blocks.shape[1])


@torch.inference_mode()
def _begun(
    model: Model, shard: Shard, kept: Sequence[Kept], work: Work, advance: Advance, done: list[int]
) -> Callable[[], Recording]:
    """A shard under way; what was said to have been read is noted in `done`."""
    first = model.uncounted
    shape = (0, 0)
    sums = [each for each in kept if isinstance(each, Sums) and each.names]
    of_tokens = [each for each in kept if isinstance(each, Statistic) and not isinstance(each, Sums)]
    of_stream = [each for each in kept if isinstance(each, StreamSums)]
    of_gradients = [each for each in kept if isinstance(each, GradientSums)]
    of_heads = [each for each in kept if isinstance(each, HeadSums)]

    def observe(layer: int, activation: Tensor, hidden: Tensor) -> None:
        # (batch, length, neurons), also where a family flattens its tokens; without what is not counted
        activation = activation.view(*shape, -1)[:, first:]
        hidden = hidden.view(*shape, -1)[:, first:]
        for statistic in of_tokens:
            statistic.add(layer, activation, hidden)

    def observe_part(layer: int, part: slice, activation: Tensor, hidden: Tensor) -> None:
        for statistic in sums:
            statistic.add_part(layer, part, activation, hidden)

    def observe_stream(layer: int, states: Tensor) -> None:
        for statistic in of_stream:
            statistic.add(layer, states[:, first:])

    def observe_entered(place: int, entered: Tensor) -> None:
        for statistic in of_heads:
            statistic.add(place, entered.view(*shape, -1)[:, first:])

    routed = Routed(model.ffns)
    finite: Tensor | None = None  # where the last layer is. On the first's, each batch would wait for the one before
    with ExitStack() as stack:
        if sums:
            stack.enter_context(observe_parts(model.ffns, observe_part, lambda: shape, first))
        if of_tokens:
            stack.enter_context(observe_ffn(model.ffns, observe))
        if of_stream:
            stack.enter_context(observe_residual(model.ffns, observe_stream))
        if of_heads:
            stack.enter_context(observe_heads(model.attentions, observe_entered))
        stack.enter_context(observe_routing(model.ffns, lambda layer, chosen: routed.add(layer, chosen[:, first:])))
        for each in kept:
            if isinstance(each, TopExamples):
                stack.enter_context(observe_routing(model.ffns, partial(_routed_examples, each, first), weighed=True))
        blocks = sent(shard.blocks, model.device)
        batches = blocks.split(max(1, work.batch_tokens // blocks.shape[1]))
        for batch in batches:
            shape = (batch.shape[0], batch.shape[1])
            states = model.hidden_states(batch)
            known = torch.isfinite(states).all()
            finite = known if finite is None else finite & known
            done.append(batch.numel())
            advance(batch.numel(), shard.language)
    for statistic in of_gradients:  # each a pass of its own, seen by no other
        for batch in batches:
            statistic.read(model, batch, first)
    lane = Lane(devices_of(model.network))
    lane.follow()  # so that sums are not kept waiting by what is begun meanwhile

    def finished() -> Recording:
        with torch.inference_mode(), lane.entered():
            if finite is not None and not bool(finite):
                raise NeuroglotError(
                    f"{model.name} gives hidden states that are not numbers (NaN or infinite) on text in "
                    f"{shard.language}; load it in float32 or bfloat16, or check its weights."
                )
            return _flushed(model, shard, kept, routed, work)

    return finished


def _flushed(model: Model, shard: Shard, kept: Sequence[Kept], routed: Routed, work: Work) -> Recording:
    """What was summed of a shard."""
    text = shard.blocks.shape[1] - model.uncounted
    flushed = {name: values for statistic in kept for name, values in statistic.flush().items()}
    flushed |= routed.sums()
    keys = flushed.pop(TopExamples.name, None)
    return Recording(
        (shard.language,),
        torch.tensor([shard.blocks.shape[0] * text]),
        {name: sums.unsqueeze(-1) for name, sums in flushed.items()},
        work.provenance,
        None if keys is None else examples_of_shard(keys, shard.name, text, shard.blocks.shape[1] - len(model.begin)),
        model.uneven,
        model.expert_sizes,
    )
