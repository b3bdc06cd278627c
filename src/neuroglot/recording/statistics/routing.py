"""On how many tokens the router of a native mixture of experts chose each of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from neuroglot.artifacts.recording import ROUTED
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.moe import Mixture

__all__ = ["Routed"]


class Routed:
    """Counts of the tokens that each expert was chosen for: 0 in layers that have no router."""

    def __init__(self, ffns: Sequence[FFN]):
        most = max((ffn.experts for ffn in ffns if isinstance(ffn, Mixture)), default=0)
        self._counts = torch.zeros(len(ffns), most, dtype=torch.int64)

    def add(self, layer: int, chosen: Bool[Tensor, "batch tokens experts"]) -> None:
        """Add one layer of a batch. Only tokens that count are given."""
        self._counts[layer, : chosen.shape[-1]] += chosen.sum((0, 1)).cpu()

    def sums(self) -> dict[str, Int64[Tensor, "layers experts"]]:
        """What the recording calls them → the counts; nothing of a dense model."""
        return {ROUTED: self._counts} if self._counts.shape[1] else {}
