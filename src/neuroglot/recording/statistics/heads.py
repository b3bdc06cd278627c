"""What each attention head adds to the residual stream: the norm of its share of the output projection's output."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.artifacts.recording import HEADS, HEADS_ACTIVE
from neuroglot.artifacts.widths import padded
from neuroglot.models.architecture.attention import Attention

__all__ = ["HeadSums", "head_norms"]


def head_norms(
    attention: Attention, factors: Float[Tensor, "heads rank width"], entered: Float[Tensor, "*tokens columns"]
) -> Float[Tensor, "*tokens heads"]:
    """‖W_o[:, h] x_h‖ of every head, in float32; the projection's bias is no head's."""
    norms: Tensor = torch.einsum("...hd,hrd->...hr", attention.parts(entered).float(), factors).norm(dim=-1)
    return norms


class HeadSums:
    """Sums of ‖W_o[:, h] x_h‖, and on how many tokens a head's is above the mean of its layer's heads.

    A norm is never below zero, so a head is *active* where it gives more than the heads beside it do on that token:
    what LAPE and the other methods of activation probabilities take for heads. Norms are float32, their sums float64.
    They cost D / d of the output projection's own arithmetic, for heads of width D in a stream of width d.
    """

    def __init__(self, attentions: Sequence[Attention]):
        self._attentions = attentions
        self._factors: dict[int, Tensor] = {}
        self._sums: list[Tensor | None] = [None] * len(attentions)
        self._active: list[Tensor | None] = [None] * len(attentions)

    def add(self, place: int, entered: Float[Tensor, "batch tokens columns"]) -> None:
        """Add what enters one output projection in a batch. Only tokens that count are given: no BOS, no padding."""
        norms = head_norms(self._attentions[place], self._factor(place, entered.device), entered)
        sums = norms.sum(1, dtype=torch.float64).sum(0)
        active = (norms > norms.mean(-1, keepdim=True)).sum((0, 1))
        before, was = self._sums[place], self._active[place]
        self._sums[place] = sums if before is None else before.add_(sums)
        self._active[place] = active if was is None else was.add_(active)

    def _factor(self, place: int, device: torch.device) -> Tensor:
        if place not in self._factors:
            self._factors[place] = self._attentions[place].factors().to(device)
        return self._factors[place]

    def flush(self) -> dict[str, Tensor]:
        """The totals so far, (attentions, heads) each, 0 beyond a layer's heads; they start again from zero."""
        sums = padded([each.cpu() for each in self._sums if each is not None])
        active = padded([each.cpu() for each in self._active if each is not None])
        self._sums, self._active = [None] * len(self._sums), [None] * len(self._active)
        return {HEADS: sums, HEADS_ACTIVE: active}
