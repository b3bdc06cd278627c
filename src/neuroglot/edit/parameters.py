"""Zero single parameters while the model runs, and put them back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from neuroglot.artifacts.parameters import Places
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.weights import is_readable
from neuroglot.models.model import Model

__all__ = ["zeroed"]


@contextmanager
@torch.no_grad()
def zeroed(model: Model, *chosen: Places) -> Iterator[None]:
    """Set parameters to zero inside the block (Tang et al. 2024, §3.2), and put them back after it.

    Args:
        model: whole and in memory.
        chosen: name of the weight → places in it, such as `parameters["fr"]`.

    Raises:
        NeuroglotError: the model has no such weight, or it is smaller.
    """
    undo: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for places in chosen:
            for name, index in places.items():
                undo.append(_zero(model, name, index))
        yield
    finally:
        for weight, index, old in reversed(undo):
            weight[index] = old


def _zero(model: Model, name: str, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        weight = model.network.get_parameter(name).detach()
    except AttributeError as error:
        raise NeuroglotError(f"{model.name} has no weight {name}; these parameters are of another model.") from error
    if len(index) and int(index.max()) >= weight.numel():
        raise NeuroglotError(f"{name} of {model.name} has {weight.numel():,} parameters; these are of another model.")
    if not is_readable(weight) or not weight.is_contiguous():
        raise NeuroglotError(
            f"{name} of {model.name} is packed or spread; load the model whole, in float32 or bfloat16."
        )
    flat, index = weight.view(-1), index.to(weight.device)
    old = flat[index].clone()
    flat[index] = 0
    return flat, index, old
