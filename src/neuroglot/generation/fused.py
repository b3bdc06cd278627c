"""Faster attention for a step on a GPU, in the place of the model's own while it is captured, and proved by its logits.

A step of few rows is bound by the launches of small kernels and by what attention reads. Rotary positions become one
kernel, as does what the cache keeps, and attention reads only the places that a row has.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.generation.state import Rows
from neuroglot.models.architecture.devices import OnDevices
from neuroglot.models.model import Model

__all__ = ["fused"]

NAME = "neuroglot_slots"
logger = logging.getLogger(__name__)


@contextmanager
def fused(model: Model, state: Rows, rows: int) -> Iterator[None]:
    """The faster attention, inside the block."""
    from transformers import AttentionInterface

    from neuroglot.generation.kernels import attend, note, store

    position = OnDevices(state.position[:rows])

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
        dropout: float = 0.0, softcap: float | None = None, sliding_window: int | None = None, **more: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        if more.get("s_aux") is not None or more.get("position_bias") is not None or query.shape[2] != 1:
            raise NotImplementedError("attention of another kind")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(query, key, value, position.on(query.device), scale, softcap, sliding_window), None

    AttentionInterface.register(NAME, attention)
    config = model.text_config
    before = config._attn_implementation
    config._attn_implementation = NAME
    state.cache.store, state.note = store, note
    rotations = _rotations(model.network)
    for home, rotation in rotations.items():
        home.apply_rotary_pos_emb = _quick_rotation(rotation)
    try:
        yield
    finally:
        config._attn_implementation = before
        state.cache.store = state.note = None
        for home, rotation in rotations.items():
            home.apply_rotary_pos_emb = rotation


def _rotations(network: nn.Module) -> dict[Any, Any]:
    """The modules of transformers whose rotary positions turn halves of a head, and their functions: they are tried."""
    homes = {sys.modules[type(module).__module__] for module in network.modules()}
    device, found = next(network.parameters()).device, {}
    for home in homes:
        rotation = getattr(home, "apply_rotary_pos_emb", None)
        if rotation is None:
            continue
        random = torch.Generator().manual_seed(0)  # the caller's is left alone
        shapes = ((2, 3, 1, 16), (2, 1, 1, 16), (2, 1, 16), (2, 1, 16))
        given = [torch.randn(shape, generator=random).to(device) for shape in shapes]
        try:
            pairs = zip(rotation(*given), _quick_rotation(rotation)(*given), strict=True)
            if all(torch.allclose(its, quick, atol=1e-5) for its, quick in pairs):
                found[home] = rotation
        except Exception:  # of another signature
            logger.debug("rotary positions of %s stay as they are", home.__name__)
    return found


def _quick_rotation(rotation: Any) -> Any:
    """A function of the same signature that takes the kernel where it can."""
    from neuroglot.generation.kernels import rotate

    def quick(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> Any:
        one = q.ndim == 4 and q.shape[2] == 1 and q.shape[-1] == k.shape[-1] == cos.shape[-1] and cos.ndim == 3
        if more or named or not q.is_cuda or not one or q.stride(3) != 1 or k.stride(3) != 1:
            return rotation(q, k, cos, sin, *more, **named)
        return rotate(q, k, cos, sin)

    return quick
