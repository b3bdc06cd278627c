"""Observe a model's sites while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroglot.models.architecture.ffn import FFN

__all__ = ["observe_ffn", "observe_residual"]

Observer = Callable[[int, Tensor, Tensor], None]


@contextmanager
def observe_ffn(ffns: Sequence[FFN], observe: Observer) -> Iterator[None]:
    """Call `observe(layer, activation, hidden)` for every layer of every forward pass inside the block.

    Both tensors are (…, neurons), in the model's dtype on the layer's device, after any intervention in force. They
    are the model's own: read them, do not write to them.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):
            for handle in _observe_layer(layer, ffn, observe):
                stack.callback(handle.remove)
        yield


def _observe_layer(layer: int, ffn: FFN, observe: Observer) -> list[RemovableHandle]:
    if not ffn.gated:
        return [ffn.activation.register_forward_hook(lambda _, __, output: observe(layer, output, output))]
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        kept[:] = [output]

    def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        observe(layer, kept.pop(), inputs[0])

    return [ffn.activation.register_forward_hook(keep), ffn.down.register_forward_pre_hook(read)]


@contextmanager
def observe_residual(ffns: Sequence[FFN], observe: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observe(layer, states)` with the residual stream that leaves every layer, inside the block.

    States are (batch, tokens, width), before any norm that follows the last layer. Read them, do not write to them.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):

            def read(_: nn.Module, __: Any, output: Any, layer: int = layer) -> None:
                observe(layer, output[0] if isinstance(output, tuple) else output)

            stack.callback(ffn.layer.register_forward_hook(read).remove)
        yield
