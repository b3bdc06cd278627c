"""On how many tokens each expert is activated: a statistic that needs all layers of a token at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from torch.nn.functional import pad

from neuroglot.errors import NeuroglotError
from neuroglot.ffn import FFN
from neuroglot.recording.statistics import Statistic, Values

__all__ = ["EXPERTS", "Experts", "activated"]

EXPERTS = "experts@"


class Experts(Statistic):
    """Cross-layer expert selection (Liu et al. 2024, §3), counted.

    An expert's score on a token is the sum of its neurons' hidden values. Scores become z-scores over the experts of
    their layer (population σ; 0 where all are equal), all layers are ranked together, and the highest are activated.

    Attributes:
        names: what the recording calls the counts, one for each entry of `top`: `experts@0.1`.

    Raises:
        NeuroglotError: an entry of `top` is no share in (0, 1] and no number of experts.
    """

    name = "experts"
    dtype = torch.int64

    def __init__(
        self, ffns: Sequence[FFN], labels: Int64[Tensor, "layers neurons"], experts: int, top: Sequence[float | int]
    ):
        super().__init__(ffns)
        total = len(ffns) * experts
        self.sizes = [entry if isinstance(entry, int) else round(entry * total) for entry in top]
        wrong = [entry for entry, size in zip(top, self.sizes, strict=True) if not 1 <= size <= total]
        if wrong or not top:
            raise NeuroglotError(
                f"top must name shares of the {total} experts, or how many (1 to {total}), not "
                f"{wrong[0] if wrong else 'nothing'}."
            )
        self.names = tuple(f"{EXPERTS}{entry:g}" for entry in top)
        # (E, S): the neurons of each expert; where it has fewer than S, one that does not exist and counts 0
        size = int(max(row.bincount().max() for row in labels))
        self._slots = torch.full((len(ffns), experts, size), labels.shape[1], dtype=torch.int64)
        for slots, row in zip(self._slots, labels, strict=True):
            order = row.argsort(stable=True)
            starts = row.bincount(minlength=experts).cumsum(0) - row.bincount(minlength=experts)
            slots[row[order], torch.arange(len(row)) - starts[row[order]]] = order
        self._scores: list[Tensor] = []
        self._counts: list[Tensor] | None = None

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """The z-scores of the experts, (tokens, E): here nothing is summed yet."""
        slots = self._slots[len(self._scores)].to(hidden.device)
        values = hidden.flatten(0, 1)
        if slots.numel() > values.shape[1]:
            values = pad(values, (0, 1))
        picked = values.index_select(1, slots.flatten()).view(len(values), *slots.shape)
        scores = picked.sum(2, dtype=torch.float64)
        apart = scores - scores.mean(1, keepdim=True)
        spread = apart.square().mean(1, keepdim=True).sqrt()
        return torch.where(spread > 0, apart / spread, 0.0)

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Take in one layer of a batch, from the first to the last, which completes its tokens."""
        self._scores = self._scores[:layer]
        reduced = self.reduce(activation, hidden)
        self._scores.append(reduced.to(self._scores[0].device) if self._scores else reduced)
        if layer + 1 < len(self.totals):
            return
        chosen = activated(torch.cat(self._scores, 1), self.sizes)
        counts = [mask.sum(0).view(len(self.totals), -1) for mask in chosen]
        self._counts = counts if self._counts is None else [a + b for a, b in zip(self._counts, counts, strict=True)]
        self._scores = []

    def take(self) -> dict[str, Tensor]:
        """The counts so far, (L, E) for each entry of `top`, on the CPU; they start again from zero."""
        assert self._counts is not None
        result = {name: counts.cpu() for name, counts in zip(self.names, self._counts, strict=True)}
        self._counts = None
        return result


def activated(scores: Float64[Tensor, "tokens all"], sizes: Sequence[int]) -> list[Bool[Tensor, "tokens all"]]:
    """For each size, the so many highest scores of each token; of equal ones those of lower layer, then expert."""
    highest = scores.topk(max(sizes), dim=1).values
    result = []
    for size in sizes:
        least = highest[:, size - 1 : size]
        chosen = scores >= least
        if bool((chosen.sum(1) > size).any()):  # more than there is room for, all of them equal to the least
            above, equal = scores > least, scores == least
            chosen = above | (equal & (equal.cumsum(1) <= size - above.sum(1, keepdim=True)))
        result.append(chosen)
    return result
