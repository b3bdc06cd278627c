"""On how many tokens each expert is activated: a statistic that needs all layers of a token at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.ffn import FFN
from neuroglot.recording.reductions import Groups
from neuroglot.recording.statistics import Statistic, Values

__all__ = ["EXPERTS", "Experts", "activated"]

EXPERTS = "experts@"
TOKENS_AT_ONCE = 4096  # that are ranked, so that a GPU's large batches do not need as many copies of their scores


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
        self._groups = [Groups(row, experts) for row in labels]
        self._scores: list[Tensor] = []
        self._counts: list[Tensor] | None = None

    def reduce(self, activation: Values, hidden: Values) -> Tensor:
        """The z-scores of the experts, (tokens, E): here nothing is summed yet."""
        scores = self._groups[len(self._scores)].sum(hidden.flatten(0, 1))
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
        for scores in torch.cat(self._scores, 1).split(TOKENS_AT_ONCE):
            counts = [mask.sum(0).view(len(self.totals), -1) for mask in activated(scores, self.sizes)]
            before = self._counts or [torch.zeros_like(each) for each in counts]
            self._counts = [a + b for a, b in zip(before, counts, strict=True)]
        self._scores = []

    def take(self) -> dict[str, Tensor]:
        """The counts so far, (L, E) for each entry of `top`, on the CPU; they start again from zero."""
        assert self._counts is not None
        result = {name: counts.cpu() for name, counts in zip(self.names, self._counts, strict=True)}
        self._counts = None
        return result


def activated(scores: Float[Tensor, "tokens all"], sizes: Sequence[int]) -> list[Bool[Tensor, "tokens all"]]:
    """For each size, the so many highest scores of each token; of equal ones those of lower layer, then expert."""
    result = []
    for size in sizes:
        least = scores.kthvalue(scores.shape[1] - size + 1, dim=1, keepdim=True).values
        chosen = scores >= least
        if bool((chosen.sum(1) > size).any()):  # more than there is room for, all of them equal to the least
            above, equal = scores > least, scores == least
            chosen = above | (equal & (equal.cumsum(1) <= size - above.sum(1, keepdim=True)))
        result.append(chosen)
    return result
