"""What the router of a mixture of experts chooses, and how that is changed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.edits import Edits
from neuroglot.models.architecture.sites import Edit, InlineCall
from neuroglot.models.architecture.trace import function_name

__all__ = ["CHOSEN", "Routing"]

CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")
"""What configs call the number of experts that a token is given."""


class Routing:
    """The router of one layer.

    Attributes:
        owner: the module that holds its matrix; None if there is none.

    Args:
        layer: the decoder layer.
        block: the module that calls the router and the experts.
        module: the experts.
        experts: how many there are.
    """

    def __init__(self, layer: nn.Module, block: nn.Module, module: nn.Module, experts: int):
        self.block, self.experts = block, experts
        own = {id(part) for part in module.modules()}
        found = (
            owner
            for owner in block.modules()
            if id(owner) not in own
            for weight in owner.parameters(recurse=False)
            if weight.ndim == 2 and weight.shape[0] == experts
        )
        self.owner = next(found, None)
        self._off: list[Tensor] = []
        self._edits = Edits(layer, self._attach, "the logits of its router were not passed")

    @property
    def chosen(self) -> int:
        """How many experts are chosen for a token, where that is said; else 1. It may be set after the model opened."""
        said: list[Any] = [getattr(part, "top_k", None) for part in (self.owner, self.block)]
        said += [getattr(getattr(self.block, "config", None), name, None) for name in CHOSEN]
        return next((k for k in said if isinstance(k, int)), 1)

    @property
    def changed(self) -> bool:
        """Whether a change is in force."""
        return bool(self._off)

    @contextmanager
    def change(self, change: Edit, off: Bool[Tensor, " experts"]) -> Iterator[None]:
        """Put `change(logits)`, (tokens, E), in the place of the router's logits inside the block.

        Args:
            change: of the logits, before anything is chosen.
            off: experts that cannot be chosen, whatever is added to the logits afterwards.

        Raises:
            NeuroglotError: the router is not known, or the layer ran and its logits were not passed.
        """
        self._known()
        self.check_left(off)
        handles = self._without(off, threading.get_ident())
        self._off.append(off)
        try:
            with self._edits.edit(change):
                yield
        finally:
            self._off = [each for each in self._off if each is not off]
            for handle in handles:
                handle.remove()

    def _attach(self, apply: Edit) -> Callable[[], None]:
        def logits(_: Any, __: Any, output: Tensor) -> Tensor:
            return apply(output) if output.shape[-1] == self.experts else output

        return InlineCall(self._known(), "linear", 1).register_forward_hook(logits).remove

    def _known(self) -> nn.Module:
        """What holds the router's matrix.

        Raises:
            NeuroglotError: there is none.
        """
        if self.owner is None:
            raise NeuroglotError("The router of this model has no matrix of its own, so its choice cannot be changed.")
        return self.owner

    def _without(self, off: Tensor, thread: int) -> list[Any]:
        """Let no expert that is off be among the highest scores while the block runs."""
        modes: list[_Choice] = []

        def enter(module: nn.Module, _: Any) -> None:
            if module is self.block and threading.get_ident() == thread:
                modes.append(_Choice(off))
                modes[-1].__enter__()  # type: ignore[no-untyped-call]

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            if module is self.block and threading.get_ident() == thread and modes:
                modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

        if not bool(off.any()):
            return []
        return [
            self.block.register_forward_pre_hook(enter),
            self.block.register_forward_hook(leave, prepend=True, always_call=True),
        ]

    def check_left(self, off: Bool[Tensor, " experts"]) -> None:
        """Refuse to switch off so many experts, with those that are off already, that too few are left.

        Raises:
            NeuroglotError: as said.
        """
        left = self.experts - int(torch.stack([off, *self._off]).any(0).sum())
        if left < self.chosen:
            raise NeuroglotError(
                f"{left} of {self.experts} experts would be left in a layer whose router chooses {self.chosen} for "
                "every token; switch off fewer."
            )

    def check(self, experts: Tensor, weights: Tensor) -> None:
        """Refuse a choice among whose experts is one that is off.

        Raises:
            NeuroglotError: as said.
        """
        for off in self._off:
            if bool((off.to(experts.device)[experts] & (weights != 0)).any()):
                raise NeuroglotError(
                    f"{int(off.sum())} of {self.experts} experts are off in a layer, and its router still chose one of "
                    "them: too few are left, or it chooses in a way that is not known; switch off fewer."
                )


class _Choice(TorchFunctionMode):
    """Scores of experts that are off are −∞ where the highest are chosen, also within groups of them."""

    def __init__(self, off: Tensor):
        super().__init__()
        self.off = off

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function_name(func) == "topk" and isinstance(args[0], Tensor):
            scores, size = args[0], self.off.numel()
            off = self.off.to(scores.device)
            if scores.shape[-1] == size:
                args = (scores.masked_fill(off, -torch.inf), *args[1:])
            elif scores.ndim > 2 and scores.shape[-1] * scores.shape[-2] == size:
                args = (scores.masked_fill(off.view(scores.shape[-2:]), -torch.inf), *args[1:])
        return func(*args, **(kwargs or {}))
