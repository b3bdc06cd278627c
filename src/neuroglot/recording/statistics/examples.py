"""Top examples in the pass: the tokens on which each neuron is most active."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from neuroglot.artifacts.examples import LOW, VALUE, Examples
from neuroglot.artifacts.widths import padded
from neuroglot.models.architecture.ffn import FFN
from neuroglot.recording.statistics.reductions import Values, keep_highest
from neuroglot.recording.statistics.sums import Statistic

__all__ = ["TopExamples"]


class TopExamples(Statistic):
    """The k most active tokens of one shard, as the keys of `keep_highest`.

    After the neurons of a layer come the experts of its router, if it has one: the tokens on which each counts most.

    Args:
        ffns: of the model.
        k: how many a neuron.
    """

    name = "examples"

    def __init__(self, ffns: Sequence[FFN], k: int):
        self._keys: list[Tensor | None] = [None] * len(ffns)
        self.k = k
        self._seen = [0] * len(ffns)
        self._weights: dict[int, Values] = {}

    def route(self, layer: int, weights: Values) -> None:
        """What each expert of a layer counts, before the layer is added."""
        self._weights[layer] = weights

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Add one layer of a batch."""
        if layer in self._weights:
            activation = torch.cat([activation, self._weights.pop(layer).to(activation)], -1)
        keys = self._keys[layer]
        if keys is None:
            keys = torch.zeros(activation.shape[-1], self.k, dtype=torch.int64, device=activation.device)
        self._keys[layer] = keep_highest(activation, keys, self._seen[layer])
        self._seen[layer] += activation.shape[0] * activation.shape[1]

    def flush(self) -> dict[str, Tensor]:
        """`examples`: the integers, (L, N, k) int64, highest first; it starts again from nothing."""
        highest = padded([keys.cpu() for keys in self._keys if keys is not None])
        self._keys, self._seen = [None] * len(self._keys), [0] * len(self._seen)
        return {self.name: highest}


def examples_of_shard(keys: Int64[Tensor, "layers neurons k"], shard: str, counted: int, text: int) -> Examples:
    """What `TopExamples` kept of a shard.

    Args:
        keys: what it kept.
        shard: its name.
        counted: how many tokens a block were given to it, at the end of each block.
        text: how many tokens of each block the shard's file holds.
    """
    values = (keys >> VALUE).to(torch.int32).view(torch.float32)
    places = LOW - (keys & LOW)
    places = places + (places // counted + 1) * (text - counted)
    places = torch.where(keys > 0, places, -1)
    return Examples(values[None], places[None], ((shard,),), text)
