"""Whether the numbers of a weight can be read and written as they are."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError

__all__ = ["column_norms", "is_readable", "kept_buffers"]

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def is_readable(weight: Any) -> bool:
    """Whether a weight's numbers are here and are what the model computes with.

    They are not where it is offloaded (on the meta device) or quantised: of integers, of 8-bit floats that a scale
    belongs to, or a class of its own that packs them, as torchao's.
    """
    return type(weight) in (Tensor, nn.Parameter) and weight.device.type != "meta" and weight.dtype in FLOATS


def kept_buffers(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """What a checkpoint keeps beside its parameters: a router's biases, a layer's scale, packed weights.

    Returns:
        The whole name of each, the module that holds it, and its name there.
    """
    for prefix, module in network.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), module, name


def column_norms(columns: Float[Tensor, "width neurons"], readable: bool) -> Float[Tensor, " neurons"]:
    """The norm of each neuron's column of a down-projection: how much it writes for each unit of its hidden value.

    Raises:
        NeuroglotError: the numbers cannot be read.
    """
    if not readable:
        raise NeuroglotError(
            "The down-projections are quantised or offloaded, so what a neuron writes cannot be computed; load the "
            "model whole."
        )
    norms: Tensor = columns.detach().float().norm(dim=0)
    return norms.cpu()
