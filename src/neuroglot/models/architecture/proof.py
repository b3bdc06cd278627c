"""Show on a short forward pass that the sites of a model's FFNs are what they claim to be."""

import hashlib
import inspect
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.models.architecture.attention import Attention
from neuroglot.models.architecture.body import check_causal, few_tokens, last_hidden_states, text_config
from neuroglot.models.architecture.bypass import Bypass, Replays
from neuroglot.models.architecture.ffn import FFN, Rows
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.weights import is_readable
from neuroglot.storage.atomic import atomic_path

__all__ = ["prove", "prove_heads", "prove_once"]

TOKENS = 4  # that are read
ROWS = 16  # of a down-projection that are multiplied again
SLOW = 0.3  # seconds from which a proof is kept on disk
# a few times what rounding makes of a product, as a share of its values
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
COARSE = 5e-2  # in types of fewer bits

_proved: set[str] = set()


def prove(network: nn.Module, ffns: Sequence[FFN]) -> None:
    """Run a few tokens through the network, with one neuron of each site zeroed, and check what came of it.

    In every layer: the site was passed; what enters the down-projection is the activation, times the up-projection in a
    gated FFN (a constant factor apart), with the zeroed neuron at zero; what leaves a projection is its weight times
    what enters it; and the neurons reach what the layer gives, and reach it through the down-projection only. What is
    made of a token must not depend on those after it.

    Raises:
        NeuroglotError: what did not hold, and where.
    """
    names = {id(module): name for name, module in network.named_modules()}
    mixtures = [ffn for ffn in ffns if isinstance(ffn, Mixture)]
    dense = [ffn for ffn in ffns if not isinstance(ffn, Mixture)]
    dense += [ffn for mixture in mixtures for ffn in mixture.shared]
    with ExitStack() as stack:
        replays = Replays()
        checks = [_Check(ffn, names.get(id(ffn.down), "an FFN"), replays) for ffn in dense]
        for check in checks:
            check.attach(stack)
        experts = [stack.enter_context(_experts_compared(mixture)) for mixture in mixtures]
        stack.enter_context(torch.no_grad())
        try:
            last_hidden_states(network, few_tokens(network, TOKENS))
        except (NeuroglotError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a site that is no tensor of neurons fails in ways of its own
            kind, first = text_config(network).model_type, checks[0].name if checks else "its experts"
            raise NeuroglotError(
                f"What was taken for the FFNs of {kind}, such as {first}, cannot be read or written there "
                f"({first_line(error)}); describe the architecture as docs/families.md says."
            ) from error
    for mixture, found in zip(mixtures, experts, strict=True):
        if wrong := found[0] if found else "they were not called":
            raise NeuroglotError(
                f"{names[id(mixture.module)]} was taken for the experts of a layer, but {wrong}; see "
                "docs/supported.md for what can be used."
            )
    for check in checks:
        if wrong := check.what_failed():
            raise NeuroglotError(
                f"{check.name} was taken for the down-projection of {'a gated' if check.ffn.gated else 'a plain'} FFN, "
                f"but {wrong}; describe the architecture as docs/families.md says."
            )
    check_causal(network)


def prove_heads(network: nn.Module, attentions: Sequence[Attention]) -> None:
    """Run a few tokens, and check that every output projection is passed once and is its weight times what enters it.

    Raises:
        NeuroglotError: what did not hold, and where.
    """
    names = {id(module): name for name, module in network.named_modules()}
    seen: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    with ExitStack() as stack, torch.no_grad():
        for place, attention in enumerate(attentions):

            def keep(_: nn.Module, given: Any, output: Tensor, place: int = place) -> None:
                seen[place].append((given[0].detach().clone(), output.detach().clone()))

            stack.callback(attention.projection.register_forward_hook(keep).remove)
        last_hidden_states(network, few_tokens(network, TOKENS))
    for place, attention in enumerate(attentions):
        wrong = None
        if len(seen[place]) != 1:
            wrong = f"it was passed {len(seen[place])} times in one forward pass"
        elif (positions := seen[place][0][0].shape[:-1].numel()) != TOKENS:
            wrong = f"{positions} positions pass it where {TOKENS} tokens were read"
        elif not _is_product(Rows(attention.projection), *seen[place][0]):
            wrong = "what leaves it is not the product of its weight with the heads that enter it"
        if wrong:
            raise NeuroglotError(
                f"{names[id(attention.projection)]} was taken for the output projection of an attention, but {wrong}; "
                "leave heads out."
            )


def prove_once(network: Any, ffns: Sequence[FFN], cache: Path) -> None:
    """`prove`, unless a network that is built alike was proved before, here or, if that took long, in any process.

    Raises:
        NeuroglotError: as `prove`.
    """
    key = _built(network, ffns)
    kept = cache / "proofs" / f"{key}.json"
    if key in _proved or kept.is_file():
        return
    began = time.perf_counter()
    prove(network, ffns)
    seconds = time.perf_counter() - began
    _proved.add(key)
    if seconds > SLOW:
        try:
            with atomic_path(kept) as draft:
                draft.write_text(json.dumps({"layers": len(ffns), "widths": [ffn.neurons for ffn in ffns]}))
        except (OSError, NeuroglotError):
            pass  # a cache that cannot be written costs the next process a second


def _built(network: Any, ffns: Sequence[FFN]) -> str:
    """A digest of all that decides what a network computes but its weights' values."""
    import transformers

    digest = hashlib.sha256(f"4 {torch.__version__} {transformers.__version__} {network.config!r}".encode())
    for name, module in network.named_modules():
        kind = type(module)
        digest.update(f"{name} {kind.__module__} {kind.__qualname__} {module.extra_repr()}".encode())
        if kind.__module__.partition(".")[0] not in ("torch", "transformers"):  # code that may be written anew
            digest.update(_code(kind.forward))
    names = {id(module): name for name, module in network.named_modules()}
    for ffn in ffns:
        site = names[id(ffn.activation)] if isinstance(ffn.activation, nn.Module) else repr(ffn.activation)
        digest.update(f"{ffn.neurons} {type(ffn.activation)} {site} {names[id(ffn.down)]}".encode())
        for part in (ffn.layout.gate, ffn.layout.up):
            digest.update(f"{part and (names[id(part.projection)], part.index)}".encode())
    return digest.hexdigest()[:32]


def _code(function: Any) -> bytes:
    """What a function does, as bytes: its own code and that of what is written within it."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return repr(function).encode()
    inner = b"".join(each.co_code if hasattr(each, "co_code") else repr(each).encode() for each in code.co_consts)
    return bytes(code.co_code) + inner + repr(code.co_names).encode()


@contextmanager
def _experts_compared(mixture: Mixture) -> Iterator[list[str | None]]:
    """Compute the experts twice inside the block: as the model does, and apart; what differs is in the list."""
    found: list[str | None] = []
    original = mixture.own_forward

    def both(*args: Any, **kwargs: Any) -> Tensor:
        sites: list[tuple[Tensor, Tensor]] = []
        expected: Tensor = original(*[each.clone() for each in args], **kwargs)
        mixture._observers.append(lambda *seen: sites.append(seen))
        try:
            got = mixture.computed(*args, **kwargs)
        finally:
            mixture._observers.pop()
        found.append(_expert_fault(mixture, expected, got, *sites[0]))
        return expected

    with mixture.computed_by(both):
        yield found


def _expert_fault(mixture: Mixture, expected: Tensor, got: Tensor, activation: Tensor, hidden: Tensor) -> str | None:
    if not bool(torch.isfinite(expected).all()):
        return None  # weights that give no numbers prove nothing, and recording refuses them
    tolerance = 2 * _tolerance(expected.dtype)  # a sum of several products, each rounded
    scale = float(expected.abs().max()) or 1.0
    if expected.shape != got.shape or float((expected - got).abs().max()) > tolerance * scale:
        return "what they give is not what their weights give on the tokens that reach them"
    if activation.shape[0] * activation.shape[1] != TOKENS:
        return f"{activation.shape[0] * activation.shape[1]} tokens reach them where {TOKENS} were read"
    lost = (activation == 0) & (hidden.abs() > tolerance * (float(hidden.abs().max()) or 1.0))
    return "a neuron whose activation is zero still enters the down-projection" if bool(lost.any()) else None


class _Check:
    """What one layer's FFN did in the pass."""

    def __init__(self, ffn: FFN, name: str, replays: Replays):
        self.replays = replays
        self.ffn, self.name = ffn, name
        self.first, self.second = 0, ffn.neurons - 1  # zeroed at the activation site, and at the hidden site
        self.seen: dict[str, list[Tensor]] = defaultdict(list)
        self.bypass = Bypass(ffn, _tolerance, replays)

    def attach(self, stack: ExitStack) -> None:
        """Zero and watch until the stack is left."""
        ffn = self.ffn

        def zero(site: str, neuron: int) -> Any:
            def change(x: Tensor) -> Tensor:
                self._keep(site, x)
                changed = x.clone()
                changed[..., neuron] = 0
                return changed

            return change

        stack.enter_context(ffn.edit("activation", zero("activation", self.first)))
        if not ffn.one_site:
            stack.enter_context(ffn.edit("hidden", zero("hidden", self.second)))
        gate = ffn.layout.gate
        for projection, read, wrote in (
            (ffn.layout.up.projection, "read", "up"),
            *([] if gate is None else [(gate.projection, "read gate", "gate")]),
            (ffn.down, "entered", "output"),
        ):
            # what enters is seen after the edits, which may give another tensor
            before = projection.register_forward_pre_hook(lambda _, given, name=read: self._keep(name, given[0]))
            after = projection.register_forward_hook(lambda _, __, output, name=wrote: self._keep(name, output))
            stack.callback(before.remove)
            stack.callback(after.remove)
        self.bypass.attach(stack)

    def _keep(self, name: str, value: Tensor) -> None:
        if not self.replays.running:
            self.seen[name].append(value.detach().clone())

    def what_failed(self) -> str | None:
        """In words; None if all holds."""
        ffn = self.ffn
        needed = ["activation", "entered", "output", "read", "up"]
        needed += (["gate"] if ffn.gated else []) + ([] if ffn.one_site else ["hidden"])
        passed = {name: len(self.seen[name]) for name in needed}
        if set(passed.values()) != {1}:
            name = next(name for name, times in passed.items() if times != 1)
            return f"its {name} site was passed {passed[name]} times in one forward pass"
        activation, entered = (self.seen[name][0].float() for name in ("activation", "entered"))
        if activation.shape[-1] != ffn.neurons or entered.shape[-1] != ffn.neurons:
            return f"its activation has {activation.shape[-1]} numbers a token where {ffn.neurons} enter it"
        up = self.seen["up"][0].float()[..., ffn.layout.up.index]
        if up.shape[-1] != ffn.neurons:
            return f"its up-projection gives {up.shape[-1]} numbers a token where {ffn.neurons} enter it"
        if activation.numel() != TOKENS * ffn.neurons:
            return f"{activation.numel() // ffn.neurons} positions pass it where {TOKENS} tokens were read"
        if not bool(torch.isfinite(entered).all() & torch.isfinite(activation).all()):
            return None  # weights that give no numbers prove nothing, and recording refuses them
        if bool(entered[..., self.first].any()):
            return "a neuron whose activation was zeroed still enters it"
        if not ffn.one_site and bool(entered[..., self.second].any()):
            return "a neuron that was zeroed before it still enters it"
        activation[..., self.first] = 0
        before = entered if ffn.one_site else self.seen["hidden"][0].float()
        expected = activation
        if ffn.gated:
            expected = activation * up.reshape(activation.shape)
        if not self._agree(before.reshape(expected.shape), expected):
            return "what enters it is not the activation" + (" times the up-projection" if ffn.gated else "")
        return self._projected() or self.bypass.fault

    def _agree(self, got: Tensor, expected: Tensor) -> bool:
        """Whether what enters is what was expected, a constant factor apart; after a norm, a factor of each token."""
        tolerance = _tolerance(self.seen["entered"][0].dtype)
        if not self.ffn.layout.normed:
            return _proportional(got, expected, tolerance, self.ffn)
        (one, *others), (first, *rest) = (each.flatten(0, -2) for each in (got, expected))
        pairs = zip(others, rest, strict=True)  # a norm's weights, one a neuron, are in both products
        return all(_proportional(one * other, each * first, 2 * tolerance, self.ffn) for each, other in pairs)

    def _projected(self) -> str | None:
        """What leaves a projection is its weight times what enters it: a neuron is a row and a column."""
        ffn = self.ffn
        parts = [(ffn.layout.up, "up", "read", "up"), (Rows(ffn.down), "down", "entered", "output")]
        if ffn.layout.gate is not None:
            parts.append((ffn.layout.gate, "gate", "read gate", "gate"))
        for part, name, read, output in parts:
            if not _is_product(part, self.seen[read][0], self.seen[output][0]):
                return f"what leaves its {name}-projection is not the product of its weight with what enters it"
        return None


def _is_product(part: Rows, read: Tensor, output: Tensor) -> bool:
    """Whether the first rows of an output are a weight's rows times the input."""
    weight: Any = part.projection.weight
    if not is_readable(weight):
        return True  # packed or elsewhere: the product is its own
    few = part.weight[:ROWS].detach().float()
    by_hand = read.flatten(0, -2).to(few) @ few.T
    bias: Any = getattr(part.projection, "bias", None)
    by_hand = by_hand if bias is None else by_hand + bias[part.index][:ROWS].detach().float()
    got = output.flatten(0, -2)[:, part.index][:, :ROWS].to(by_hand)
    wrong, size = float((by_hand - got).norm()), float(by_hand.norm()) or 1.0
    return wrong <= _tolerance(output.dtype) * size or not math.isfinite(wrong)


def _tolerance(dtype: torch.dtype) -> float:
    return TOLERANCE.get(dtype, COARSE)


def _proportional(got: Tensor, expected: Tensor, tolerance: float, ffn: FFN) -> bool:
    """Whether a tensor is a constant times another, to rounding; the constant is 1 where there is one site."""
    square = float(expected.square().sum())
    factor = 1.0 if ffn.one_site or not square else float((got * expected).sum()) / square
    scale = float(got.abs().max()) or 1.0
    return float((got - factor * expected).abs().max()) <= tolerance * scale and (factor != 0 or not square)
