"""A network over several devices: what all layers are given is copied to each device once a pass.

accelerate hands every layer its masks and positions from the device of the first, layer by layer. Each such copy makes
both devices wait for one another, so the first could not begin a batch while the second is at the batch before.
"""

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from neuroglot.models.architecture.body import input_device

__all__ = ["SharedCopies", "share_copies"]


class SharedCopies:
    """A forward pre-hook: what a module is given comes to its device, each tensor once for all modules there.

    A tensor that was changed in place since is copied again.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._copies: dict[int, tuple[Any, int, Tensor]] = {}  # of each tensor that still lives, and which state of it

    def __call__(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The same arguments, on the device."""
        return tuple(map(self._here, args)), {name: self._here(value) for name, value in named.items()}

    def _here(self, value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(map(self._here, value))
        if not isinstance(value, Tensor) or value.device == self.device:
            return value
        state = -1 if value.is_inference() else value._version
        known = self._copies.get(id(value))
        if known is not None and known[0]() is value and known[1] == state:
            return known[2]
        self._copies = {key: kept for key, kept in self._copies.items() if kept[0]() is not None}
        copy = value.to(self.device, non_blocking=True)
        self._copies[id(value)] = (ref(value), state, copy)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.device,)


def share_copies(network: nn.Module) -> None:
    """Let the modules of each further device share what they are given. Nothing is done where there is one device."""
    first = input_device(network)
    shared: dict[torch.device, SharedCopies] = {}
    for module in network.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is None or any(isinstance(hook, SharedCopies) for hook in module._forward_pre_hooks.values()):
            continue
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        if device != first and device.type == first.type:
            copies = shared.setdefault(device, SharedCopies(device))
            module.register_forward_pre_hook(copies, with_kwargs=True, prepend=True)
