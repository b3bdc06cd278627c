"""Whether the neurons of an FFN reach what their layer gives, only through their down-projection, and each by its row.

A decoy's do not reach it: what it computes is thrown away, or multiplied by zero. Where something else reads them too,
as a second projection or an adapter beside the first, zeroing their columns would not switch them off.
Where the projection before the activation function is another than was said, rows and columns are not one neuron's.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.sites import UNWATCHED

__all__ = ["Bypass", "Replays"]


class Replays:
    """Whether a layer runs again, of which nothing is to be kept."""

    running = False


class Bypass:
    """Runs the layer of an FFN again, right after it ran, with other values at one place.

    Args:
        ffn: of one layer.
        tolerance: by type, the share of the median value that the layer gives, up to which two are the same. The
            largest would hide much: a trained model has a few dimensions that are a thousand times as large as the
            others.
        replays: of all FFNs that are looked at.
    """

    def __init__(self, ffn: FFN, tolerance: Callable[[torch.dtype], float], replays: Replays):
        self.ffn, self.tolerance, self.replays = ffn, tolerance, replays
        self.fault: str | None = None
        self._given: tuple[Any, Any] | None = None
        self._output: Tensor | None = None  # of the down-projection

    def attach(self, stack: ExitStack) -> None:
        """Look at every pass until the stack is left."""
        ffn = self.ffn
        for handle in (
            ffn.layer.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            ffn.layer.register_forward_hook(self._after),
            ffn.down.register_forward_hook(self._keep),
        ):
            stack.callback(handle.remove)

    def _before(self, _: nn.Module, args: Any, kwargs: Any) -> None:
        if not self.replays.running:
            self._given = _copy(args), _copy(kwargs)  # a layer may add to its input in place

    def _keep(self, _: nn.Module, __: Any, output: Tensor) -> None:
        if not self.replays.running:
            self._output = output.detach().clone()

    def _after(self, _: nn.Module, __: Any, output: Any) -> None:
        if self.replays.running or self._output is None or self.fault:
            return
        kept, expected = self._output, _first(output)
        if expected is None or not bool(torch.isfinite(expected).all()):
            return  # weights that give no numbers prove nothing
        wave = torch.linspace(-1, 1, kept.shape[-1], device=kept.device) * (1 + kept.float().abs().max())

        def other(_: Any, __: Any, output: Tensor) -> Tensor:
            return output + wave.to(output.dtype)

        def same(_: Any, __: Any, output: Tensor) -> Tensor:
            return kept

        def louder(_: Any, __: Any, output: Tensor) -> Tensor:
            return output.abs() * 2 + 1

        before: list[Tensor] = []
        down, slack = self.ffn.down, self.tolerance(expected.dtype) * float(expected.float().abs().median())
        if self._apart({down: other, self.ffn.activation: _kept_in(before)}, expected) == 0:
            self.fault = "what leaves it does not reach what the layer gives"
        elif len(before) != 1:
            self.fault = f"its activation is computed {len(before)} times in its layer"
        elif before[0].shape[-1] != self.ffn.neurons:
            self.fault = f"its activation has {before[0].shape[-1]} numbers a token"
        elif self._follows_another(before[0], expected):
            which = "gate-projection" if self.ffn.gated else "first projection"
            self.fault = f"the activation of a neuron does not follow its row of the {which}"
        elif self._apart({down: same, self.ffn.activation: louder}, expected) > slack >= self._apart({}, expected):
            self.fault = "what enters it is used elsewhere too, so zeroing its columns would not switch a neuron off"

    def _follows_another(self, before: Tensor, expected: Tensor) -> bool:
        """Whether no activation, or another neuron's, moves most where one row of the projection before is raised.

        Most, not alone: a sparse activation function has a cut-off that all neurons of a token set.
        """
        part, neuron = self.ffn.layout.gate or self.ffn.layout.up, self.ffn.neurons // 2
        place = part.first + part.step * neuron
        after: list[Tensor] = []

        def raised(_: Any, __: Any, output: Tensor) -> Tensor:
            with UNWATCHED():
                changed = output.clone()
                changed[..., place] = 4 * (1 + output.abs().max())
            return changed

        self._apart({part.projection: raised, self.ffn.activation: _kept_in(after)}, expected)
        moved = (after[0].float() - before.float()).abs().nan_to_num().reshape(-1, self.ffn.neurons).amax(0)
        return bool(moved.argmax() != neuron or moved[neuron] == 0)

    def _apart(self, changes: dict[Any, Callable[..., Tensor | None]], expected: Tensor) -> float:
        """How far what the layer gives, with these outputs changed, is from what it gave."""
        assert self._given is not None
        args, kwargs = self._given
        self.replays.running = True
        with ExitStack() as stack, torch.no_grad():
            for place, change in changes.items():
                stack.callback(place.register_forward_hook(change).remove)
            stack.callback(setattr, self.replays, "running", False)
            got = _first(self.ffn.layer(*_copy(args), **_copy(kwargs)))
        if got is None or got.shape != expected.shape:
            return math.inf
        return float((got.float() - expected.float()).abs().max())


def _kept_in(values: list[Tensor]) -> Callable[..., None]:
    """A hook that keeps what it sees."""
    return lambda _, __, output: values.append(output.detach().clone())


def _first(output: Any) -> Tensor | None:
    """The first tensor that a layer gives, which is the stream."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return next((found for found in map(_first, values) if found is not None), None)


def _copy(given: Any) -> Any:
    if isinstance(given, Tensor):
        return given.detach().clone()
    if type(given) in (tuple, list):
        return type(given)(map(_copy, given))
    return {name: _copy(each) for name, each in given.items()} if type(given) is dict else given
