"""A network over several devices: what all layers are given is copied to each device once a pass, and nobody waits.

accelerate hands every layer its masks and positions from the device of the first, layer by layer. Each such copy makes
both devices wait for one another, so the first could not begin a batch while the second is at the batch before. So does
torch's own copy between two GPUs, so what passes from one to the other goes by streams of its own.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from neuroglot.models.architecture.body import input_device

__all__ = [
    "Lane",
    "OnDevices",
    "SharedCopies",
    "device_of",
    "devices_of",
    "is_placed",
    "launch_ahead",
    "meet",
    "sent",
    "share_copies",
]


def launch_ahead() -> None:
    """Let more kernels wait for a GPU than CUDA does of itself; to be called before the first use of one.

    Where the layers of one GPU launch more kernels a batch than its queue holds (1,024), the host waits for that GPU
    and meanwhile the other has nothing to do.
    """
    os.environ.setdefault("CUDA_SCALE_LAUNCH_QUEUES", "4x")


def devices_of(network: nn.Module) -> list[torch.device]:
    """Where its weights are, the device of the input first."""
    return list(dict.fromkeys([input_device(network), *(weight.device for weight in network.parameters())]))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """What is in the CPU's memory on a device, without waiting until the device has done all that it was given."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


def is_placed(module: nn.Module) -> bool:
    """Whether accelerate does no more in a module's forward than bring what it is given to its device."""
    hook: Any = getattr(module, "_hf_hook", None)
    own = getattr(getattr(module, "_old_forward", None), "__func__", None)
    return type(hook).__name__ == "AlignDevicesHook" and not hook.offload and own is type(module).forward


def meet(devices: Sequence[torch.device]) -> None:
    """Let the work that GPUs are given from now on wait for all that any of them was given before."""
    first, *others = [torch.cuda.current_stream(device) for device in devices]
    for stream in others:
        first.wait_stream(stream)
    for stream in others:
        stream.wait_stream(first)


class Lane:
    """A stream on each GPU of some devices, for work beside that of other streams; on other devices nothing."""

    def __init__(self, devices: Sequence[torch.device]):
        self.streams = [torch.cuda.Stream(device) for device in devices if device.type == "cuda"]

    def follow(self) -> None:
        """What is given here from now on waits for what the current streams were given so far, and for nothing else."""
        for stream in self.streams:
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def lead(self) -> None:
        """What the current streams are given from now on waits for what was given here."""
        for stream in self.streams:
            torch.cuda.current_stream(stream.device).wait_stream(stream)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside the block work is given here; the first device is the current one."""
        with ExitStack() as stack:
            for stream in reversed(self.streams):
                stack.enter_context(torch.cuda.stream(stream))
            yield


class OnDevices:
    """A tensor and its copies on other devices, each made once, when it is first asked for."""

    def __init__(self, values: Tensor):
        self.values = values
        self._copies = {values.device: values}

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        if device not in self._copies:
            self._copies[device] = self.values.to(device, non_blocking=True)
        return self._copies[device]


@cache
def _between(device: torch.device) -> torch.cuda.Stream:
    """A stream of a GPU for what comes from another or goes there."""
    return torch.cuda.Stream(device)


def _copied(values: Tensor, device: torch.device) -> Tensor:
    """A copy on another device.

    torch's copy lets the one GPU wait until the other is done with the batch before. In streams of their own, it waits
    for the values alone, and the other GPU for the copy. Not where a graph is captured or gradients will come back.
    """
    gpus = values.device, device
    if any(gpu.type != "cuda" for gpu in gpus) or torch.is_grad_enabled() or torch.cuda.is_current_stream_capturing():
        return values.to(device, non_blocking=True)
    source, target = map(_between, gpus)
    source.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(target), torch.cuda.stream(source):
        copy = values.to(device, non_blocking=True)
    arrives = torch.cuda.current_stream(device)
    arrives.wait_stream(target)
    values.record_stream(source)  # neither is given to others before those that read it are done
    copy.record_stream(arrives)
    return copy


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
        copy = _copied(value, self.device)
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
