"""On how many tokens each expert is activated: a statistic that needs all layers of a token at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from neuroglot.artifacts.recording import EXPERTS
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import FFN
from neuroglot.recording.statistics.reductions import Groups, Values, count_highest, standardise
from neuroglot.recording.statistics.sums import Statistic

__all__ = ["Experts"]


class Experts(Statistic):
    """Cross-layer expert selection (Liu et al. 2024, §3), counted.

    An expert's score on a token is the sum of its neurons' hidden values. Scores become z-scores over the experts of
    their layer (population σ; 0 where all are equal), all layers are ranked together, and the highest are activated; of
    equal ones those of lower layer, then expert.

    Attributes:
        names: what the recording calls the counts, one for each entry of `top`: `experts@0.1`.

    Raises:
        NeuroglotError: an entry of `top` is no share in (0, 1] and no number of experts.
    """

    def __init__(
        self, ffns: Sequence[FFN], labels: Int64[Tensor, "layers neurons"], experts: int, top: Sequence[float | int]
    ):
        total = len(ffns) * experts
        self.sizes = [entry if isinstance(entry, int) else round(entry * total) for entry in top]
        wrong = [entry for entry, size in zip(top, self.sizes, strict=True) if not 1 <= size <= total]
        if wrong or not top:
            raise NeuroglotError(
                f"top must name shares of the {total} experts, or how many (1 to {total}), not "
                f"{wrong[0] if wrong else 'nothing'}."
            )
        self.names = tuple(f"{EXPERTS}{entry:g}" for entry in top)
        self._layers, self._experts = len(ffns), experts
        self._groups = [Groups(row[: ffn.neurons], experts) for row, ffn in zip(labels, ffns, strict=True)]
        self._scores = torch.empty(0, 0)  # (tokens, layers · experts) of the batch that is being read
        self._counts: list[Tensor] | None = None

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Add one layer of a batch, from the first to the last, which completes its tokens."""
        sums = self._groups[layer].sum(hidden)
        if layer == 0:
            self._scores = sums.new_empty(len(sums), self._layers * self._experts)
        z_scores = self._scores[:, layer * self._experts : (layer + 1) * self._experts]
        standardise(sums.to(self._scores.device), z_scores)
        if layer + 1 == self._layers:
            counts = [count_highest(self._scores, size) for size in self.sizes]
            before = self._counts or [torch.zeros_like(each) for each in counts]
            self._counts = [a + b for a, b in zip(before, counts, strict=True)]

    def flush(self) -> dict[str, Tensor]:
        """The counts so far, (L, E) for each entry of `top`, on the CPU; they start again from zero."""
        assert self._counts is not None
        shape = (self._layers, self._experts)
        result = {name: counts.view(shape).cpu() for name, counts in zip(self.names, self._counts, strict=True)}
        self._counts, self._scores = None, torch.empty(0, 0)
        return result
