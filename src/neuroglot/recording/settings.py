"""What a pass over text is asked: every parameter of `record`, with its default, its bounds and its sentence.

This is the only place that says so. `record` and `forecast` take these fields as keyword arguments, a run keeps some of
them in `run.json`, and `neuroglot record` makes its options of those. Nothing here imports torch.
"""

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from neuroglot.artifacts.partition import Partition
    from neuroglot.corpus.corpus import Corpus
    from neuroglot.models.model import Model
    from neuroglot.recording.engines.local import Engine
else:  # objects of these are handed on as they are, and their files import torch
    Engine = Partition = Any

__all__ = ["PassSettings", "RecordSettings", "keywords"]

LONG = 2_000_000  # tokens of a language from which reading it ahead of the model is worth processes of its own

P = ParamSpec("P")
R = TypeVar("R")


class PassSettings(BaseModel):
    """How text is read and the model run: what a run keeps, since a pass can only go on with the same.

    The sizes of batches and shards are among them: sums are added batch by batch and shard by shard, so that another
    size changes them, if only by rounding.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    tokens: int = Field(1_000_000, ge=1)
    """At most so many tokens of each language."""
    block: int = Field(512, ge=2)
    """Tokens a block, with BOS."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU."""
    shard_tokens: int | None = Field(None, ge=2)
    """Tokens a shard, about, which is what an interruption can cost; by default 131,072, or a 64th of the tokens where
    that is more."""
    examples: int = Field(0, ge=0)
    """Keep so many of each neuron's most active tokens in each language."""

    @property
    def shard_size(self) -> int:
        """Tokens a shard: with a 64th of a long text, as many shards of a language as there is any use for."""
        return self.shard_tokens or max(131_072, self.tokens // 64)

    @property
    def blocks_of_shard(self) -> int:
        """Full blocks a shard."""
        return max(1, self.shard_size // self.block)


class RecordSettings(PassSettings):
    """The keyword arguments of `record` and `forecast`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # What is kept besides. It decides the recording too, but a run derives it from its experts.
    statistics: tuple[str, ...] = ("active", "activation", "hidden")
    """What to keep: `active` (counts), `activation` and `hidden` (sums at the two sites), `magnitude` (sums of
    |hidden|), `residual` (sums of the residual stream that leaves each layer, for directions), `heads` (sums of what
    each attention head gives; see `Recording.of`), `output` (what zeroing a neuron changes in its FFN's output),
    `attribution` and `relevance` (gradients: about four times the pass, and the head), and what
    `ng.recording.statistic` registered."""
    partition: Partition | None = None
    """Count on how many tokens each of its experts is activated, too; see `ng.experts.frequencies`."""
    top: tuple[float | int, ...] = (0.1,)
    """Which experts of a token are activated: the share of all that score highest, or (an integer) how many. Each entry
    is counted on its own, in one pass."""

    # How the work is done. The bytes of the recording are the same whatever these are, so no file holds them and a pass
    # may go on with others.
    directory: str | Path | None = None
    """Keep finished shards there, and go on from those that an interrupted pass of the same settings left."""
    part: tuple[int, int] = (1, 1)
    """(i, n): only every n-th shard, beginning with the i-th (from 1). Its shards stay in `directory`, where all parts
    may be recorded at once, until `neuroglot.recording.merge` adds them up."""
    engine: Engine | None = None
    """Who does the work: by default this process; a `RayEngine` has workers, on this machine or a cluster."""
    readers: int | None = Field(None, ge=0)
    """Processes that read and tokenise ahead of the model, a language each; 0 reads all the text first. By default 0 up
    to two million tokens of a language, else at most half as many as there are cores."""
    progress: bool = True
    """Show progress: a bar on a terminal, lines in a log."""

    @field_validator("part")
    @classmethod
    def _part_exists(cls, part: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= part[0] <= part[1]:
            raise ValueError("(i, n) needs 1 ≤ i ≤ n")
        return part

    def readers_of(self, languages: int) -> int:
        """How many processes read so many languages."""
        if self.readers is not None:
            return self.readers
        return min(languages, max(1, (os.cpu_count() or 1) // 2)) if self.tokens > LONG else 0


def keywords(
    settings: Callable[P, BaseModel],
) -> "Callable[[Callable[..., R]], Callable[Concatenate[Model, Corpus, P], R]]":
    """Say of a function of model, corpus and `**settings` which keyword arguments those are.

    Type checkers, `help()` and editors then know each of them, as if it stood in the function's own signature.
    """

    def describe(function: Callable[..., R]) -> "Callable[Concatenate[Model, Corpus, P], R]":
        signature = inspect.signature(function)
        model, corpus, *_ = signature.parameters.values()
        kinds = get_type_hints(settings)
        fields = [each.replace(annotation=kinds[name]) for name, each in inspect.signature(settings).parameters.items()]
        function.__signature__ = signature.replace(parameters=[model, corpus, *fields])  # type: ignore[attr-defined]
        known: dict[str, FieldInfo] = settings.model_fields  # type: ignore[attr-defined]
        lines = [f"        {name}: {' '.join((field.description or '').split())}" for name, field in known.items()]
        function.__doc__ = (function.__doc__ or "").replace(
            "        **settings: see `RecordSettings`.", "\n".join(lines)
        )
        return function

    return describe
