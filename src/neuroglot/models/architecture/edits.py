"""What is put in the place of a tensor while the model runs: the edits in force there, and the proof that they acted.

Neurons, heads, the residual stream and the router's logits are all edited through an `Edits`, whatever its hook is.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.residual import stream_of, with_stream
from neuroglot.models.architecture.sites import EAGER, UNWATCHED, Edit

__all__ = ["Edits", "at_input", "at_output", "at_stream"]

Attach = Callable[[Edit], Callable[[], None]]
"""Puts a function of a tensor in the place of that tensor in every forward pass, until what it gives is called."""


class Edits:
    """The edits of one tensor, in the order they were made, behind one hook that is there while any is.

    Args:
        layer: whose passes must pass the tensor.
        attach: the hook.
        lost: what was not passed if the layer ran and no edit acted, in words.
    """

    def __init__(self, layer: nn.Module, attach: Attach, lost: str):
        self.layer, self.lost = layer, lost
        self._attach = attach
        self._changes: list[_Change] = []
        self._detach: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        return bool(self._changes)

    @contextmanager
    def edit(self, change: Edit) -> Iterator[None]:
        """Put `change(x)` in the place of the tensor x inside the block.

        Nested edits apply in the order they were made, and all of them before any observer sees the tensor. Blocks may
        be left in any order. A copy of the model that is made inside the block is not edited.

        Raises:
            NeuroglotError: the layer ran and the tensor was not passed, or another thread runs the model.
        """
        own = _Change(change, self.layer)
        if not self._changes:
            self._detach = self._attach(self.apply)
        EAGER.__enter__()
        self._changes.append(own)
        counter = self.layer.register_forward_pre_hook(own.layer_ran)
        try:
            yield
        finally:
            EAGER.__exit__()
            counter.remove()
            self._changes.remove(own)
            if not self._changes and self._detach is not None:
                self._detach()
        if own.passes and not own.acted:
            raise NeuroglotError(f"An intervention did not act: the layer ran and {self.lost}.")

    def apply(self, x: Tensor) -> Tensor:
        """The tensor after all edits."""
        self.check_thread()
        with UNWATCHED():
            for each in self._changes:
                each.acted = True
                x = each.change(x)
        return x

    def check_thread(self) -> None:
        """Refuse a pass of another thread than that which edits.

        Raises:
            NeuroglotError: as said.
        """
        if any(each.thread != threading.get_ident() for each in self._changes):
            raise NeuroglotError(
                "Another thread has interventions in force on this model; run it in the thread that opened them, or "
                "load the model once for each thread."
            )


class _Change:
    """One edit in force.

    Attributes:
        passes: how often the layer ran.
        acted: whether the edit did.
    """

    def __init__(self, change: Edit, layer: nn.Module):
        self.change, self.layer = change, layer
        self.thread = threading.get_ident()
        self.passes, self.acted = 0, False

    def layer_ran(self, module: nn.Module, _: Any) -> None:
        """A hook that counts."""
        self.passes += module is self.layer and threading.get_ident() == self.thread


def at_output(module: Any) -> Attach:
    """Edit what a module, or a call in line, gives; but no copy of it."""

    def attach(apply: Edit) -> Callable[[], None]:
        hook = module.register_forward_hook(lambda m, _, out: apply(out) if m is module else out, prepend=True)
        remove: Callable[[], None] = hook.remove
        return remove

    return attach


def at_input(module: nn.Module) -> Attach:
    """Edit the first tensor that enters a module."""

    def attach(apply: Edit) -> Callable[[], None]:
        def hook(m: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (apply(given[0]), *given[1:]) if m is module else given

        return module.register_forward_pre_hook(hook, prepend=True).remove

    return attach


def at_stream(layer: nn.Module) -> Attach:
    """Edit the residual stream that leaves a layer."""

    def attach(apply: Edit) -> Callable[[], None]:
        def hook(m: nn.Module, _: Any, output: Any) -> Any:
            return with_stream(output, apply(stream_of(output))) if m is layer else output

        return layer.register_forward_hook(hook, prepend=True).remove

    return attach
