"""Observe a model's sites while it runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from neuroglot.models.architecture.attention import Attention
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.residual import stream_of

__all__ = ["observe_ffn", "observe_heads", "observe_parts", "observe_residual", "observe_routing"]

Observer = Callable[[int, Tensor, Tensor], None]
OfPart = Callable[[int, slice, Tensor, Tensor], None]


@contextmanager
def observe_ffn(ffns: Sequence[FFN], observe: Observer) -> Iterator[None]:
    """Call `observe(layer, activation, hidden)` for every layer of every forward pass inside the block.

    Both tensors are (…, neurons), in the model's dtype on the layer's device, after any intervention in force. They
    are the model's own: read them, do not write to them. Passes of other threads, and of copies, are not seen.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):
            stack.callback(ffn.observe(partial(observe, layer)))
        yield


@contextmanager
def observe_parts(
    ffns: Sequence[FFN], observe: OfPart, shape: Callable[[], tuple[int, int]], first: int
) -> Iterator[None]:
    """Call `observe(layer, neurons, activation, hidden)` for every part of every layer, inside the block.

    A dense FFN is one part. A native mixture of experts has one for each expert, with values of the tokens that reach
    it alone, and one for each FFN that all tokens pass besides; an expert that no token reaches is not given.

    Args:
        ffns: of the model.
        observe: `neurons` are the part's among the layer's; values are (sequences, tokens, neurons of the part).
        shape: says how many sequences the model reads and how many tokens of each, also where it flattens them.
        first: how many tokens at the start of every sequence are left out.
    """

    def whole(layer: int, activation: Tensor, hidden: Tensor) -> None:
        both = (each.view(*shape(), -1)[:, first:] for each in (activation, hidden))
        observe(layer, slice(0, ffns[layer].neurons), *both)

    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):
            if isinstance(ffn, Mixture):
                stack.enter_context(ffn.observe_parts(partial(observe, layer), first))
            else:
                stack.callback(ffn.observe(partial(whole, layer)))
        yield


@contextmanager
def observe_routing(
    ffns: Sequence[FFN], observe: Callable[[int, Tensor], None], weighed: bool = False
) -> Iterator[None]:
    """Call `observe(layer, chosen)` for every layer that is a native mixture of experts, inside the block.

    `chosen` is (batch, tokens, experts) bool: which experts the router chose for a token; or what each of them counts,
    0 where it is not chosen, if `weighed`. It comes before what `observe_ffn` gives of the layer.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):
            if isinstance(ffn, Mixture):
                stack.enter_context(ffn.observe_routing(partial(observe, layer), weighed))
        yield


@contextmanager
def observe_heads(attentions: Sequence[Attention], observe: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observe(place, entered)` with what enters the output projection of every attention, inside the block.

    It is (…, heads · width), after any intervention in force. Read it, do not write to it.
    """
    with ExitStack() as stack:
        for place, attention in enumerate(attentions):
            stack.callback(attention.observe(partial(observe, place)))
        yield


@contextmanager
def observe_residual(ffns: Sequence[FFN], observe: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observe(layer, states)` with the residual stream that leaves every layer, inside the block.

    States are (batch, tokens, width), before any norm that follows the last layer. Read them, do not write to them.

    Raises:
        NeuroglotError: in the pass, where there are several streams side by side, as in Gemma 3n.
    """
    thread = get_ident()
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):

            def read(module: nn.Module, _: Any, output: Any, layer: int = layer, own: nn.Module = ffn.layer) -> None:
                if module is own and get_ident() == thread:
                    observe(layer, stream_of(output))

            stack.callback(ffn.layer.register_forward_hook(read).remove)
        yield
