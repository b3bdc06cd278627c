"""Faster parts for a step on a GPU, put in the place of the model's own while the step is captured, and proved by its logits.

A step of few rows is bound by the launches of small kernels and by what attention reads. Root-mean-square norms become one
kernel each, and attention reads only the places that a row has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroglot.generation.state import Rows
from neuroglot.models.model import Model

__all__ = ["fused"]

NAME = "neuroglot_slots"


@contextmanager
def fused(model: Model, state: Rows, rows: int) -> Iterator[None]:
    """The faster parts, inside the block."""
    from transformers import AttentionInterface

    from neuroglot.generation.kernels import attend

    position = state.position[:rows]

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float | None = None,
        dropout: float = 0.0, softcap: float | None = None, sliding_window: int | None = None, **more: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        if more.get("s_aux") is not None or more.get("position_bias") is not None or query.shape[2] != 1:
            raise NotImplementedError("attention of another kind")
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return attend(query, key, value, position, scale, softcap, sliding_window), None

    AttentionInterface.register(NAME, attention)
    config = model.text_config
    before = config._attn_implementation
    norms = {module: quick for module in model.network.modules() if (quick := _quick_norm(module)) is not None}
    config._attn_implementation = NAME
    for module, quick in norms.items():
        module.forward = quick
    try:
        yield
    finally:
        config._attn_implementation = before
        for module in norms:
            del module.forward


def _quick_norm(module: nn.Module) -> Any:
    """One kernel for a root-mean-square norm, if a module is one: it is tried on random states."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor) or not isinstance(eps, float):
        return None
    states = torch.randn((4, weight.shape[-1]), device=weight.device).to(weight.dtype)
    expected = type(module).forward(module, states).float()  # type: ignore[operator]
    for more in (0, 1):  # Gemma multiplies by one more than the weight

        def quick(states: Tensor, more: int = more) -> Tensor:
            return F.rms_norm(states, weight.shape, weight + more if more else weight, eps)

        if float((quick(states).float() - expected).abs().max()) <= 0.02 * float(expected.abs().max()):
            return quick
    return None
