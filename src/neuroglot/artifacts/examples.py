"""Top examples: the tokens on which each neuron is most active, by language.

They are found in the recording pass, in memory that grows with neurons × languages × k and not with the text. What is
kept of an example is its value and its place, the shard and the token in it; the words come from the shards' tokens,
which stay beside a recording that has examples.

The k highest of a union are the k highest of the k highest of its parts, so examples merge as sums do. Equal values go
to the place that comes first: shards in the order of their names, then tokens in theirs. That makes the choice unique,
and the same on any number of workers. Only values above zero count: a neuron that was never active has no examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.storage.digests import SHARD_NAME, digest_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LOW", "VALUE", "Example", "Examples", "context"]

VALUE = 32  # a key is the bits of a value above zero, shifted by so many, and its token counted backwards
LOW = (1 << VALUE) - 1
SHARD = VALUE  # a place is the number of its shard, shifted by so many bits, and the token in it
BEFORE, AFTER = 24, 8


class Example(NamedTuple):
    """One token on which a neuron is active."""

    value: float
    """The activation."""
    shard: str
    """The name of the shard it is in."""
    token: int
    """The place in the shard, BOS not counted."""


@dataclass(frozen=True, eq=False)
class Examples:
    """The k most active tokens of every neuron in every language, highest first.

    In a layer with a router its experts come after its neurons: expert e of a layer of n neurons (the recording's
    `widths[l]`) has the number n + e, and its examples are the tokens on which it counts most.

    Attributes:
        values: (K, L, N, k) float32, the activations; 0 where there are fewer than k above zero.
        places: (K, L, N, k) int64, shard number · 2³² + token; −1 where there is none.
        shards: for each language the names of its shards, sorted.
        text: tokens a block, without BOS: an example's context ends where its block does.
    """

    values: Float32[Tensor, "languages layers neurons k"]
    places: Int64[Tensor, "languages layers neurons k"]
    shards: tuple[tuple[str, ...], ...]
    text: int

    @property
    def k(self) -> int:
        """How many a neuron and language, at most."""
        return self.values.shape[-1]

    def of(self, language: int, layer: int, neuron: int) -> list[Example]:
        """The examples of a neuron (layer and neuron from 0) in a language, highest first."""
        values, places = self.values[language, layer, neuron], self.places[language, layer, neuron]
        return [
            Example(value, self.shards[language][place >> SHARD], place & LOW)
            for value, place in zip(values.tolist(), places.tolist(), strict=True)
            if place >= 0
        ]

    def frame(self, languages: Sequence[str], layer: int, neuron: int) -> "pd.DataFrame":
        """The examples of one neuron, a row each: language, rank (from 1), value, shard, token.

        Args:
            languages: of the recording.
            layer: from 0.
            neuron: from 0.
        """
        import pandas as pd

        rows = [
            {"language": tag, "rank": rank, **example._asdict()}
            for number, tag in enumerate(languages)
            for rank, example in enumerate(self.of(number, layer, neuron), start=1)
        ]
        return pd.DataFrame(rows, columns=["language", "rank", "value", "shard", "token"])

    def select(self, languages: Sequence[int]) -> "Examples":
        """Those of some languages, by their numbers."""
        return Examples(
            self.values[list(languages)],
            self.places[list(languages)],
            tuple(self.shards[language] for language in languages),
            self.text,
        )

    def check(self) -> None:
        """Refuse examples that no pass over text can leave.

        Raises:
            ValueError: a value is negative or not a number, or a place is in no shard.
        """
        if self.values.shape != self.places.shape or type(self.text) is not int or self.text < 1:
            raise ValueError("its examples have values and places of different shapes")
        if not bool((torch.isfinite(self.values) & (self.values >= 0)).all()):
            raise ValueError("its examples have values below 0 or not numbers")
        for places, shards in zip(self.places, self.shards, strict=True):
            if not all(isinstance(name, str) and SHARD_NAME.fullmatch(name) for name in shards):
                raise ValueError("its examples name a shard that is none")
            if places.numel() and (int(places.min()) < -1 or int(places.max()) >> SHARD >= len(shards)):
                raise ValueError("its examples lie in shards that are not there")

    @classmethod
    def stack(cls, parts: Sequence["Examples"]) -> "Examples":
        """Languages one after the other."""
        return cls(
            torch.cat([part.values for part in parts]),
            torch.cat([part.places for part in parts]),
            tuple(shards for part in parts for shards in part.shards),
            parts[0].text,
        )

    def merge(self, other: "Examples") -> "Examples":
        """The k highest of both, which are of the same one language and of different shards."""
        (mine,), (theirs,) = self.shards, other.shards
        shards = tuple(sorted({*mine, *theirs}))
        values, places = self.values.clone(), _renumbered(self.places, mine, shards)
        added = _renumbered(other.places, theirs, shards)
        rows = other.values[..., 0] >= values[..., -1]  # elsewhere nothing of the other is high enough
        both, where = torch.cat([values[rows], other.values[rows]], -1), torch.cat([places[rows], added[rows]], -1)
        if not mine or not theirs or mine[-1] >= theirs[0]:  # equal values are ordered by place
            where, order = where.sort(-1)
            both = both.gather(-1, order)
        both, order = both.sort(dim=-1, descending=True, stable=True)
        where = torch.where(both > 0, where.gather(-1, order), -1)
        values[rows], places[rows] = both[..., : self.k], where[..., : self.k]
        return Examples(values, places, (shards,), self.text)


def _renumbered(places: Tensor, before: tuple[str, ...], after: tuple[str, ...]) -> Tensor:
    """Places, with shards numbered as in `after`."""
    if before == after[: len(before)]:
        return places.clone()
    numbers = torch.tensor([after.index(shard) for shard in before], dtype=torch.int64)
    moved = (numbers[(places.clamp_min(0) >> SHARD)] << SHARD) | (places & LOW)
    return torch.where(places >= 0, moved, -1)


class Context(NamedTuple):
    """Tokens around an example."""

    before: list[int]
    token: int
    after: list[int]


def context(
    directory: str | Path, example: Example, text: int, *, before: int = BEFORE, after: int = AFTER
) -> Context | None:
    """The tokens around an example within its block: all that the model saw of what is before it.

    Args:
        directory: of the recording.
        example: where.
        text: `Examples.text`.
        before: at most so many tokens.
        after: at most so many.

    Returns:
        None if the shard's tokens are not there any more.
    """
    row = _tokens(Path(directory) / "text" / f"{example.shard}.i32")
    if row is None or example.token >= len(row):
        return None
    begin = example.token // text * text
    first, last = max(begin, example.token - before), min(begin + text, example.token + after + 1, len(row))
    at = example.token
    return Context(row[first:at].tolist(), int(row[at]), row[at + 1 : last].tolist())


@lru_cache(maxsize=64)
def _tokens(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    row = np.fromfile(path, dtype=np.int32)
    if digest_of(row) != path.stem.rsplit("-", 1)[1]:
        raise NeuroglotError(f"{path} is damaged; delete {path.parent.parent} and record again.")
    return row
