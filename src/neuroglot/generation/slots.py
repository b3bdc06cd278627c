"""A key-value cache of slots: every row has its own, of its own length, and may be replaced while the others go on.

Position p of a row is place p of its slot, whatever the rows beside it, so there is no padding on the left. A prompt is
read in one pass that fills slots (`filling`); then a step reads one token of every row (`reach`), each at its own
position.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from neuroglot.models.architecture.devices import OnDevices

__all__ = ["SlotCache", "decode_masks"]

OTHER_WINDOWS = ("attention_chunk_size", "window_size", "attention_window", "attention_types", "local_attention")
"""Settings by which some models look at less than all keys: a short trial would not show it."""


class SlotCache(Cache):  # type: ignore[misc]  # transformers' classes have no types
    """Keys and values of `slots` rows of up to `length` tokens, layer by layer, made as the first prompts are read.

    Each layer's are on its device.

    Attributes:
        slots: how many rows.
        length: how many tokens each may have.
        rows: the slots that are filled (a pass over prompts), or None in a step.
        place: (rows,) of a step: `slot · length + position`, where the new token's keys and values go.
        reach: how many places of each slot a step looks at.
        store: what puts a token's keys and values in their place, or None for torch's own.
    """

    def __init__(self, layers: int, slots: int, length: int):
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])
        self.slots, self.length = slots, length
        self.rows: OnDevices | None = None
        self.place: OnDevices | None = None
        self.reach = length
        self.store: Callable[..., None] | None = None

    @contextmanager
    def filling(self, rows: Int[Tensor, " rows"]) -> Iterator[None]:
        """What is read inside the block fills these slots, from their beginning."""
        self.rows = OnDevices(rows)
        try:
            yield
        finally:
            self.rows = None

    def step(self, place: Int[Tensor, " rows"], reach: int) -> None:
        """Say where the next token of each of the first rows goes."""
        self.place, self.reach = OnDevices(place), reach

    def move(self, source: Int[Tensor, " rows"], target: Int[Tensor, " rows"]) -> None:
        """Copy rows to other slots."""
        sources, targets = OnDevices(source), OnDevices(target)
        for layer in self.layers:
            for kept in (layer.keys, layer.values):
                kept[targets.on(kept.device)] = kept[sources.on(kept.device)]

    def bytes_on(self, device: torch.device) -> int:
        """How much memory of a device it takes."""
        kept = [part for layer in self.layers for part in (layer.keys, layer.values) if part is not None]
        return sum(part.numel() * part.element_size() for part in kept if part.device == device)


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of a `SlotCache`. Keys and values are (slots, length, heads, width), so that a token is one row."""

    keys: Tensor | None
    values: Tensor | None

    def __init__(self, cache: SlotCache):
        super().__init__()
        # weakly: a circle would keep the keys and values of every call until Python looks for circles, and it does not
        # look because a GPU is full
        self._cache = ref(cache)

    @property
    def cache(self) -> SlotCache:
        """The one it is a layer of."""
        cache = self._cache()
        assert cache is not None
        return cache

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep new keys and values, and give those that attention looks at."""
        cache = self.cache
        if self.keys is None:
            self.keys, self.values = (self._room(states) for states in (key_states, value_states))
            self.is_initialized = True
        assert self.keys is not None
        assert self.values is not None
        if cache.rows is not None:
            for kept, states in ((self.keys, key_states), (self.values, value_states)):
                kept[cache.rows.on(kept.device), : states.shape[2]] = states.transpose(1, 2)
            return key_states, value_states
        assert cache.place is not None
        place = cache.place.on(self.keys.device)
        if cache.store is not None:
            cache.store(key_states, value_states, self.keys, self.values, place)
            return self._seen(key_states.shape[0])
        for kept, states in ((self.keys, key_states), (self.values, value_states)):
            new = states.transpose(1, 2).reshape(states.shape[0], -1)
            kept.view(cache.slots * cache.length, -1).index_copy_(0, place, new)
        return self._seen(key_states.shape[0])

    def _seen(self, rows: int) -> tuple[Tensor, Tensor]:
        """What the first rows look at."""
        assert self.keys is not None
        assert self.values is not None
        reach = self.cache.reach
        return self.keys[:rows, :reach].transpose(1, 2), self.values[:rows, :reach].transpose(1, 2)

    def _room(self, states: Tensor) -> Tensor:
        _, heads, _, width = states.shape
        return states.new_zeros((self.cache.slots, self.cache.length, heads, width))

    def get_seq_length(self) -> int:
        """How many tokens were read before: none for a prompt, some in a step."""
        return 0 if self.cache.rows is not None else self.cache.reach - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys the pass looks at, and from which place."""
        return (query_length if self.cache.rows is not None else self.cache.reach), 0


def decode_masks(config: Any, position: Int[Tensor, " rows"], reach: int, dtype: torch.dtype) -> Any:
    """What a step's token of each row looks at, to be added to its attention: (rows, 1, 1, reach).

    A mask by the type of the layers where the config has types, as transformers names them, else one for all.

    Raises:
        NotImplementedError: layers of another type, which look at something else than keys.
    """
    back = position[:, None] - torch.arange(reach, device=position.device)  # how far behind the token a key is
    window: int | None = getattr(config, "sliding_window", None)

    def mask(kind: str) -> Float[Tensor, "rows 1 1 reach"]:
        if kind not in ("full_attention", "sliding_attention"):
            raise NotImplementedError(f"layers of the type {kind}")
        seen = back >= 0
        if kind == "sliding_attention" and window:
            seen = seen & (back < window)
        out = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return out.masked_fill(~seen, torch.finfo(dtype).min)[:, None, None]

    kinds: Sequence[str] | None = getattr(config, "layer_types", None)
    if kinds:
        return {kind: mask(kind) for kind in sorted(set(kinds))}
    for name in OTHER_WINDOWS:
        if getattr(config, name, None):
            raise NotImplementedError(f"attention by {name}")
    return mask("sliding_attention" if window else "full_attention")
