"""On how many tokens the router of a native mixture of experts chose each of them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from neuroglot.artifacts.recording import FOLDS, ROUTED
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.moe import Mixture

__all__ = ["Routed"]

GROUPS = 16  # of blocks, by their place in the shard: a bootstrap over them needs no more, and they add as counts do


class Routed:
    """Counts of the tokens that each expert was chosen for: 0 in layers that have no router."""

    def __init__(self, ffns: Sequence[FFN]):
        most = max((ffn.experts for ffn in ffns if isinstance(ffn, Mixture)), default=0)
        self._counts = torch.zeros(len(ffns), most, GROUPS, dtype=torch.int64)
        self._seen = [0] * len(ffns)

    def add(self, layer: int, chosen: Bool[Tensor, "batch tokens experts"]) -> None:
        """Add one layer of a batch. Only tokens that count are given."""
        groups = (self._seen[layer] + torch.arange(len(chosen))) % GROUPS
        self._seen[layer] += len(chosen)
        self._counts[layer, : chosen.shape[-1]].index_add_(1, groups, chosen.sum(1).T.cpu())

    def sums(self) -> dict[str, Int64[Tensor, "layers experts *groups"]]:
        """What the recording calls them → the counts; nothing of a dense model."""
        if not self._counts.shape[1]:
            return {}
        return {ROUTED: self._counts.sum(-1), FOLDS: self._counts}
