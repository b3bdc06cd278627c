"""The sites at which a neuron, or a dimension of the residual stream, is read or written."""

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from neuroglot.models.architecture.trace import function_name

__all__ = ["EAGER", "UNWATCHED", "Edit", "InlineCall", "Site"]

Site = Literal["activation", "hidden", "residual", "heads"]
"""Of a layer: two of its neurons; the residual stream that leaves it, whose units are its dimensions; and what enters
the output projection of an attention, whose units are its heads."""


Edit = Callable[[Tensor], Tensor]

Hook = Callable[[Any, Any, Tensor], Tensor | None]


class _Eager:
    """How many hooks need compiled networks to run as they are written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._stance = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._count and "torch._dynamo" in sys.modules:  # nothing was compiled without it
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._count += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                self._stance.close()


EAGER = _Eager()
"""Inside it a network that was compiled runs as it is written, since compiled code passes hooks by."""


UNWATCHED = torch._C.DisableTorchFunction
"""Hooks compute inside it: a call of theirs must not be counted as one of the network's own, see `InlineCall`."""


class InlineCall:
    """A function that a module calls in its own forward, as `F.silu(self.w1(x)) * self.w3(x)` does.

    It takes forward hooks as a module does. Only while it has any is the forward of its owner watched.

    Args:
        owner: the module.
        function: what the function is called, as `trace.function_name` says.
        nth: which of its calls, from 1.
    """

    def __init__(self, owner: nn.Module, function: str, nth: int):
        self.owner, self.function, self.nth = owner, function, nth
        self._hooks: dict[int, Hook] = {}
        self._attached: list[RemovableHandle] = []
        self._running = threading.local()

    def __repr__(self) -> str:
        return f"call {self.nth} of {self.function} in {type(self.owner).__name__}"

    def register_forward_hook(self, hook: Hook, *, prepend: bool = False) -> "_Handle":
        """Call `hook(module, inputs, output)` with every output; what it gives, if anything, takes its place."""
        handle = _Handle(self, hook)
        if not self._hooks:
            self._attach()
        self._hooks = {id(handle): hook} | self._hooks if prepend else self._hooks | {id(handle): hook}
        return handle

    def _attach(self) -> None:
        def enter(module: nn.Module, _: Any) -> None:
            if module is self.owner:  # and no copy of it
                mode = _Watched(self)
                self._modes.append(mode)
                mode.__enter__()  # type: ignore[no-untyped-call]

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            if module is self.owner and self._modes:
                self._modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

        self._attached = [
            self.owner.register_forward_pre_hook(enter),
            self.owner.register_forward_hook(leave, prepend=True, always_call=True),
        ]

    @property
    def _modes(self) -> list["_Watched"]:
        if not hasattr(self._running, "modes"):
            self._running.modes = []
        modes: list[_Watched] = self._running.modes
        return modes

    def __deepcopy__(self, memo: Any) -> "InlineCall":
        return self  # a hook that was copied with its module sees that it is not its own

    def output(self, output: Tensor) -> Tensor:
        """What the hooks make of the function's output."""
        with UNWATCHED():
            for hook in list(self._hooks.values()):
                changed = hook(self, (), output)
                output = output if changed is None else changed
        return output

    def _remove(self, handle: "_Handle") -> None:
        self._hooks = {key: hook for key, hook in self._hooks.items() if key != id(handle)}
        if not self._hooks:
            for each in self._attached:
                each.remove()
            self._attached = []


class _Handle:
    def __init__(self, call: InlineCall, hook: Hook):
        self._call, self._hook = call, hook

    def remove(self) -> None:
        self._call._remove(self)


class _Watched(TorchFunctionMode):
    """One forward of the owner."""

    def __init__(self, call: InlineCall):
        super().__init__()
        self._call = call
        self._left = call.nth

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._left and function_name(func) == self._call.function:
            self._left -= 1
            if not self._left:
                result = self._call.output(result)
        return result
