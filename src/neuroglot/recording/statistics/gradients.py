"""What a neuron is worth to the tokens that come next: gradients, reduced layer by layer as they come back.

`attribution` is Σ |h · ∂ loss / ∂h|, gradient times activation, of what enters the down-projection; of a head, with its
part of what enters the output projection as h. `relevance` is Σ |R|, with R from layer-wise relevance propagation: a
backward pass that starts from the logits of the tokens that come next and gives each value the part of them that it
made (`RelevanceRules`).

Both need a forward pass with its activations kept, the head, and a backward pass: about four times what recording costs
without them, plus six times the head. No gradient of a weight is computed. Memory is bounded: as many blocks go forward
and back at once as keep `KEPT` bytes, one at least, and the head's logits are made a few tokens at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from neuroglot.artifacts.recording import HEADS
from neuroglot.artifacts.widths import padded
from neuroglot.models.architecture.attention import Attention
from neuroglot.models.architecture.gradients import attention_with_gradients
from neuroglot.models.architecture.hooks import observe_ffn, observe_heads
from neuroglot.models.architecture.trace import function_name
from neuroglot.models.model import Model

__all__ = ["GRADIENTS", "GradientSums", "RelevanceRules"]

GRADIENTS = ("attribution", "relevance")
KEPT = {"cpu": 3 << 28, "cuda": 1 << 33}  # bytes of what layers compute, which are kept until its gradient is back
LOGITS_AT_ONCE = 1 << 25  # tokens × vocabulary, whose gradients are kept too

Seen = Callable[[int, Tensor], None]


class GradientSums:
    """Sums over tokens of |value · gradient| of every neuron, and of every head, in float64.

    Args:
        layers: how many there are.
        name: `attribution` or `relevance`.
        attentions: whose heads, if any.
    """

    def __init__(self, layers: int, name: str, attentions: Sequence[Attention] = ()):
        self.name, self._attentions = name, attentions
        self._totals: list[Tensor | None] = [None] * layers
        self._of_heads: list[Tensor | None] = [None] * len(attentions)
        self._at_once: dict[int, int] = {}  # length of a block → blocks

    def add(self, layer: int, hidden: Float[Tensor, "batch tokens neurons"], gradient: Tensor) -> None:
        """Add one layer of a batch. Only tokens that count are given."""
        _add(self._totals, layer, hidden * gradient)

    def add_heads(self, place: int, entered: Float[Tensor, "batch tokens columns"], gradient: Tensor) -> None:
        """Add what enters one output projection in a batch: of each head, its part times the part's gradient."""
        parts = (self._attentions[place].parts(each) for each in (entered, gradient))
        _add(self._of_heads, place, torch.einsum("...hd,...hd->...h", *parts))

    def read(self, model: Model, batch: Int[Tensor, "batch length"], first: int) -> None:
        """Run a batch forward and back, and add what comes of it."""
        relevance, length = self.name == "relevance", batch.shape[1]
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            _only_activations(model.network),
            attention_with_gradients(),
        ):
            blocks = batch.clone()
            if length not in self._at_once:
                bound = KEPT.get(blocks.device.type, KEPT["cpu"])
                self._at_once[length] = max(1, bound // max(1, _bytes_kept(model, blocks[:1], relevance)))
            for some in blocks.split(self._at_once[length]):
                neurons, heads = (self._observe(some.shape, first, add) for add in (self.add, self.add_heads))

                def of_layer(layer: int, _: Tensor, hidden: Tensor, seen: Seen = neurons) -> None:
                    seen(layer, hidden)

                with observe_ffn(model.ffns, of_layer), observe_heads(self._attentions, heads):
                    states = _states(model, some, relevance)
                states.backward(_of_states(model, states, some, relevance))

    def _observe(self, shape: Sequence[int], first: int, add: Callable[[int, Tensor, Tensor], None]) -> Seen:
        """What a hook calls with a layer's values, so that they and their gradients are added when those are back."""

        def observe(layer: int, values: Tensor) -> None:
            value = values.detach()  # a hook that held `values` itself would be held by them, and neither ever freed

            def back(gradient: Tensor) -> None:
                add(layer, *(each.detach().reshape(*shape, -1)[:, first:] for each in (value, gradient)))

            values.register_hook(back)

        return observe

    def flush(self) -> dict[str, Tensor]:
        """The totals so far, (L, N), 0 beyond a layer's width; they start again from zero."""
        found = {self.name: _flushed(self._totals)}
        if self._attentions:
            found[f"{HEADS}_{self.name}"] = _flushed(self._of_heads)
        return found


def _add(totals: list[Tensor | None], place: int, worth: Float[Tensor, "batch tokens units"]) -> None:
    sums, before = worth.abs().sum(1, dtype=torch.float64).sum(0), totals[place]
    totals[place] = sums if before is None else before.add_(sums)


def _flushed(totals: list[Tensor | None]) -> Tensor:
    found = padded([sums.cpu() for sums in totals if sums is not None])
    totals[:] = [None] * len(totals)
    return found


def _states(model: Model, tokens: Tensor, relevance: bool) -> Tensor:
    """The last hidden states, by what gradients, or relevances, come back."""
    if not relevance:
        return model.hidden_states(tokens)
    with _activations_as_gains([ffn.activation for ffn in model.ffns]), RelevanceRules():
        return model.hidden_states(tokens)


@dataclass(eq=False)
class _Saved:
    """What autograd keeps of a tensor, for as long as it does."""

    value: Tensor


def _bytes_kept(model: Model, block: Int[Tensor, "1 length"], relevance: bool) -> int:
    """What a block's forward pass keeps for its way back, without weights: the same for any text of this length."""
    saved: WeakSet[_Saved] = WeakSet()

    def save(value: Tensor) -> _Saved:
        saved.add(each := _Saved(value))
        return each

    with torch.autograd.graph.saved_tensors_hooks(save, lambda each: each.value):
        states = _states(model, block, relevance)
    kept = {each.value.untyped_storage().data_ptr(): each.value.untyped_storage().nbytes() for each in saved}
    for weight in model.network.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    del states  # which kept it all
    return sum(kept.values())


def _of_states(model: Model, states: Tensor, tokens: Tensor, relevance: bool) -> Tensor:
    """The gradient of the last hidden states, from the head, a few tokens' logits at a time.

    Of the loss of the tokens that come next; for relevance, of their logits.
    """
    leaf = states.detach()
    rows, targets = leaf[:, :-1].flatten(0, 1), tokens[:, 1:].flatten().long()
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)
    slopes: list[Tensor] = []
    for begin in range(0, len(rows), size):
        some = rows[begin : begin + size].detach().requires_grad_()
        wanted = targets[begin : begin + size, None].to(some.device)
        with RelevanceRules() if relevance else nullcontext():
            logits = model.logits(some).float()
        of_targets = logits.gather(1, wanted.to(logits.device))[:, 0]
        (of_targets if relevance else logits.logsumexp(-1) - of_targets).sum().backward()
        assert some.grad is not None
        slopes.append(some.grad)
    return F.pad(torch.cat(slopes).view(leaf[:, :-1].shape), (0, 0, 0, 1))  # of the last place nothing is asked


@contextmanager
def _only_activations(network: Any) -> Iterator[None]:
    """No gradient of a weight is computed inside the block; everything computed from the embeddings has one."""
    before = [weight.requires_grad for weight in network.parameters()]
    for weight in network.parameters():
        weight.requires_grad_(False)
    handle = network.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.detach().requires_grad_()
    )
    try:
        yield
    finally:
        handle.remove()
        for weight, wanted in zip(network.parameters(), before, strict=True):
            weight.requires_grad_(wanted)


def _as_gain(x: Tensor, output: Tensor) -> Tensor:
    """`output`, as a constant times `x`: the identity rule of an activation function."""
    return x * torch.where(x == 0, 0.0, output / torch.where(x == 0, 1.0, x)).detach()


@contextmanager
def _activations_as_gains(activations: Sequence[Any]) -> Iterator[None]:
    """The identity rule for activation functions that are modules, however they are written."""
    with ExitStack() as stack:
        for module in activations:
            if isinstance(module, nn.Module):
                handle = module.register_forward_hook(
                    lambda _, inputs, output: _as_gain(inputs[0], output.detach()), prepend=True
                )
                stack.callback(handle.remove)
        yield


class RelevanceRules(TorchFunctionMode):
    """Inside it, gradient times value of anything computed is its relevance (LRP).

    | computed | rule |
    |---|---|
    | a product with a matrix | LRP-0, which gradients are (bias: absorbed) |
    | an activation function f(x) | identity: all to x (Achtibat et al. 2024, AttnLRP, §3.3) |
    | a product of two values, such as gate · up | half to each (the same, uniform rule) |
    | a norm | its scale is a constant (Ali et al. 2022, §3.2) |
    | an attention | its weights are constants (the same, §3.1) |
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        given = [each for each in args if isinstance(each, Tensor) and each.requires_grad]
        if name == "scaled_dot_product_attention":
            query, key, *others = args
            return func(query.detach(), key.detach(), *others, **kwargs)
        if name in ("softmax", "rsqrt") and given:
            return func(*args, **kwargs).detach()
        if name in ("silu", "gelu", "relu", "tanh", "rms_norm") and given:
            return _as_gain(args[0], func(*[args[0].detach(), *args[1:]], **kwargs))
        if name == "layer_norm" and given:
            return _layer_norm(func, args, kwargs)
        if name in ("mul", "multiply") and len(given) == 2:
            first, second = given
            return 0.5 * (func(first, second.detach()) + func(first.detach(), second))
        if name == "div" and len(given) == 2:
            return func(given[0], given[1].detach(), **kwargs)
        return func(*args, **kwargs)


def _layer_norm(func: Any, args: Any, kwargs: Any) -> Tensor:
    """A layer norm whose deviation is a constant; its mean is linear, and stays."""
    x = args[0]
    norm: Tensor = func(*[x.detach(), *args[1:]], **kwargs)
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    weight = args[2] if len(args) > 2 else kwargs.get("weight")
    axes = tuple(range(-len(shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    plain = F.layer_norm(x.detach(), shape, None, None, kwargs.get("eps", args[4] if len(args) > 4 else 1e-5))
    scale = torch.where(centred.detach() == 0, 0.0, plain / torch.where(centred.detach() == 0, 1.0, centred.detach()))
    moved = centred * (scale if weight is None else scale * weight)
    conserved: Tensor = norm + moved - moved.detach()
    return conserved
