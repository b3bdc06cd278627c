"""Which tokens reach which experts of a layer: its *pairs* of a token and an expert, and their order."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

__all__ = ["Reached"]


@dataclass(frozen=True, eq=False)
class Reached:
    """Pairs in the order of their experts, and of an expert in that of the tokens' places in their sequences.

    So the pairs of tokens that no statistic counts, the first of every sequence, come first among an expert's.

    Attributes:
        experts: of each pair, ascending.
        tokens: of each pair, among all of the batch.
        count: how many experts there are, E.
        shape: how many sequences were read, and how many tokens of each.
        weights: what an expert counts on a token.
    """

    experts: Int64[Tensor, " pairs"]
    tokens: Int64[Tensor, " pairs"]
    count: int
    shape: tuple[int, int]
    weights: Float[Tensor, " pairs"]

    @classmethod
    def of(
        cls,
        experts: Int64[Tensor, " pairs"],
        tokens: Int64[Tensor, " pairs"],
        count: int,
        shape: tuple[int, int],
        weights: Float[Tensor, " pairs"],
    ) -> "Reached":
        """Pairs in any order, a token's together; an expert chosen twice for it is reached once, by both weights."""
        order = (experts * shape[1] + tokens % shape[1]).argsort(stable=True)
        experts, tokens, weights = experts[order], tokens[order], weights[order]
        new = torch.ones_like(tokens, dtype=torch.bool)
        new[1:] = (experts[1:] != experts[:-1]) | (tokens[1:] != tokens[:-1])
        if not bool(new.all()):  # a table of experts by token (DeepSeek V4) may name one twice
            weights = weights.new_zeros(int(new.sum())).index_add(0, new.cumsum(0) - 1, weights)
            experts, tokens = experts[new], tokens[new]
        return cls(experts, tokens, count, shape, weights)

    def sizes(self) -> list[int]:
        """How many tokens reach each expert."""
        sizes: list[int] = torch.bincount(self.experts, minlength=self.count).tolist()
        return sizes

    def uncounted(self, first: int) -> list[int]:
        """How many of an expert's pairs are of the first so many tokens of a sequence."""
        early = (self.tokens % self.shape[1] < first).to(torch.int64)
        uncounted: list[int] = (
            torch.zeros(self.count, dtype=torch.int64, device=early.device).index_add_(0, self.experts, early).tolist()
        )
        return uncounted

    def spans(self) -> Iterator[tuple[int, slice]]:
        """Each expert that a token reaches, and which pairs are its."""
        begin = 0
        for expert, size in enumerate(self.sizes()):
            if size:
                yield expert, slice(begin, begin + size)
            begin += size

    def chosen(self) -> Bool[Tensor, "batch length experts"]:
        """Whether a token reaches an expert."""
        table = torch.zeros(self.shape[0] * self.shape[1], self.count, dtype=torch.bool, device=self.tokens.device)
        table[self.tokens, self.experts] = True
        return table.view(*self.shape, self.count)

    def table(self, values: Shaped[Tensor, "pairs width"]) -> Shaped[Tensor, "batch length neurons"]:
        """Values of pairs as a row a token, expert by expert; 0 where a token does not reach an expert."""
        tokens = self.shape[0] * self.shape[1]
        table = values.new_zeros(tokens, self.count, values.shape[1]).index_put((self.tokens, self.experts), values)
        return table.view(*self.shape, -1)

    def pairs(self, table: Shaped[Tensor, "batch length neurons"]) -> Shaped[Tensor, "pairs width"]:
        """The values of pairs in such a table."""
        return table.reshape(self.shape[0] * self.shape[1], self.count, -1)[self.tokens, self.experts]
