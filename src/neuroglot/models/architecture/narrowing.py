"""A mixture of experts with fewer experts, and fewer neurons in each of them."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.undo import taking_back

__all__ = ["narrow"]

COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "n_experts", "moe_num_experts")
"""What modules and configs call the number of experts."""
WIDTHS = ("intermediate_dim", "moe_intermediate_size", "intermediate_size", "expert_dim", "ffn_dim")
"""What modules of experts call their width."""


@torch.no_grad()
def narrow(
    mixture: Mixture, experts: Int64[Tensor, " kept"], neurons: Int64[Tensor, "kept width"]
) -> Callable[[], None]:
    """Keep these experts and of each these of its neurons, and give a function that puts all of them back.

    Args:
        mixture: of one layer.
        experts: in their order.
        neurons: of each kept expert; -1 is a neuron that is active nowhere and writes nothing.

    Raises:
        NeuroglotError: the router is not known, or chooses within groups of experts.
    """
    undo: list[Callable[[], None]] = []
    routing = mixture.routing
    if routing.owner is None:
        raise NeuroglotError("The router of this model has no matrix of its own, so no expert can be taken out.")
    count, width = mixture.experts, mixture.width
    _shrink_weights(mixture, experts, neurons, undo)
    modules = [mixture.module, *_routers(routing.block, routing.owner)]
    for module in modules[1:]:
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            axes = [axis for axis, size in enumerate(tensor.shape) if size == count]
            if tensor is routing.owner.weight:  # its other axis may be as long by chance
                axes = [0]
            if axes and (tensor.ndim == 1 or tensor is routing.owner.weight or min(tensor.shape) == 1):
                _put(module, name, tensor.index_select(axes[0], experts.to(tensor.device)), undo)
    for module in modules:
        for name in (*COUNTS, "out_features"):
            if getattr(module, name, None) == count:
                _set(module, name, len(experts), undo)
    for name in WIDTHS:
        if getattr(mixture.module, name, None) == width:
            _set(mixture.module, name, neurons.shape[1], undo)
    shared = mixture.neurons - count * width
    for thing, name, value in (
        (mixture, "experts", len(experts)),
        (mixture, "width", neurons.shape[1]),
        (mixture, "neurons", neurons.numel() + shared),
        (mixture.weights, "experts", len(experts)),
        (mixture.weights, "width", neurons.shape[1]),
        (routing, "experts", len(experts)),
    ):
        _set(thing, name, value, undo)

    return taking_back(undo)


def _routers(block: nn.Module, owner: nn.Module) -> Iterator[nn.Module]:
    """What chooses: the block that calls the experts, the router in it, what holds its matrix, and what is in that."""
    yield block
    for name, module in block.named_modules():
        if module is owner:
            parts = name.split(".")
            yield from (block.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts)) if parts[0])
    if owner is not block:
        yield from owner.modules()


def _shrink_weights(mixture: Mixture, experts: Tensor, neurons: Tensor, undo: list[Callable[[], None]]) -> None:
    """Replace the experts' matrices and biases by smaller ones."""
    weights, module = mixture.weights, mixture.module
    old = {name: tensor.detach() for name, tensor in module.named_parameters(recurse=False)}
    rows = [weights.gate, weights.up] if weights.gated else [weights.up]
    before = [_of(part, experts, neurons, 1) for part in rows if part is not None]
    down = _of(weights.down, experts, neurons, 2)
    biases = None
    if weights.first_bias is not None:
        halves = weights._split(weights.first_bias, 1) if weights.gated else (weights.first_bias,)
        biases = [_of(half, experts, neurons, 1) for half in halves]
    for name, tensor in old.items():
        shape = [len(experts), *tensor.shape[1:]]
        for axis in range(1, tensor.ndim):
            inner = name.removesuffix("_bias")
            both = 2 if inner == "gate_up_proj" else 1
            if inner != "down_proj" or not name.endswith("_bias"):
                place = _inner_axis(weights, inner, tensor.ndim)
                if axis == place:
                    shape[axis] = both * neurons.shape[1]
        smaller = tensor.new_empty(shape)
        if name == "down_proj_bias" or tensor.ndim == 1:
            smaller = tensor[experts.to(tensor.device)].clone()
        _put(module, name, smaller, undo)
    now = [weights.gate, weights.up] if weights.gated else [weights.up]
    for part, values in zip([part for part in now if part is not None], before, strict=True):
        part.copy_(values)
    weights.down.copy_(down)
    if biases is not None and weights.first_bias is not None:
        halves = weights._split(weights.first_bias, 1) if weights.gated else (weights.first_bias,)
        for half, values in zip(halves, biases, strict=True):
            half.copy_(values)


def _inner_axis(weights: Any, name: str, dimensions: int) -> int:
    """The axis of a stored matrix or bias that runs over neurons."""
    if dimensions == 2:
        return 1
    return 1 if (name == "down_proj") == weights._transposed else 2


def _of(tensor: Tensor, experts: Tensor, neurons: Tensor, axis: int) -> Tensor:
    """Some neurons of some experts; 0 where the number is -1."""
    experts, neurons = experts.to(tensor.device), neurons.to(tensor.device)
    some = tensor.detach()[experts]
    index = neurons.clamp_min(0)
    missing = neurons < 0
    for other in range(1, tensor.ndim):
        if other != axis:
            index, missing = index.unsqueeze(other), missing.unsqueeze(other)
    sizes = [neurons.shape[1] if place == axis else size for place, size in enumerate(some.shape)]
    return some.gather(axis, index.expand(sizes)).masked_fill(missing, 0)


def _put(module: nn.Module, name: str, tensor: Tensor, undo: list[Callable[[], None]]) -> None:
    """Put a tensor in the place of a parameter or buffer."""
    old = getattr(module, name)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    setattr(module, name, new)
    undo.append(lambda: setattr(module, name, old))


def _set(thing: Any, name: str, value: int, undo: list[Callable[[], None]]) -> None:
    old = getattr(thing, name)
    setattr(thing, name, value)
    undo.append(lambda: setattr(thing, name, old))
