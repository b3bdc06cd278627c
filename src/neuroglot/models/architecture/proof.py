"""Show on a short forward pass that the sites of a model's FFNs are what they claim to be."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import few_tokens, last_hidden_states
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.moe import Mixture
from neuroglot.storage.atomic import atomic_path

__all__ = ["prove", "prove_once"]

TOKENS = 4  # that are read
ROWS = 16  # of a down-projection that are multiplied again
SLOW = 0.3  # seconds from which a proof is kept on disk
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-5}  # of the largest value; others have 8 bits or 11

_proved: set[str] = set()


def prove(network: nn.Module, ffns: Sequence[FFN]) -> None:
    """Run a few tokens through the network, with one neuron of each site zeroed, and check what came of it.

    In every layer: the site was passed; what enters the down-projection is the activation, times the up-projection in a
    gated FFN (a constant factor apart), with the zeroed neuron at zero; and what leaves the down-projection is what the
    other columns of its weight give.

    Raises:
        NeuroglotError: what did not hold, and where.
    """
    names = {id(module): name for name, module in network.named_modules()}
    mixtures = [ffn for ffn in ffns if isinstance(ffn, Mixture)]
    dense = [ffn for ffn in ffns if not isinstance(ffn, Mixture)]
    dense += [ffn for mixture in mixtures for ffn in mixture.shared]
    with ExitStack() as stack:
        checks = [_Check(ffn, names.get(id(ffn.down), "an FFN")) for ffn in dense]
        for check in checks:
            check.attach(stack)
        experts = [stack.enter_context(_experts_compared(mixture)) for mixture in mixtures]
        stack.enter_context(torch.no_grad())
        last_hidden_states(network, few_tokens(network, TOKENS))
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

    digest = hashlib.sha256(f"1 {torch.__version__} {transformers.__version__} {network.config!r}".encode())
    for name, module in network.named_modules():
        digest.update(f"{name} {type(module).__module__} {type(module).__qualname__} {module.extra_repr()}".encode())
    for ffn in ffns:
        digest.update(f"{ffn.neurons} {ffn.gated} {type(ffn.activation)} {ffn.activation!r}".encode())
    return digest.hexdigest()[:32]


@contextmanager
def _experts_compared(mixture: Mixture) -> Iterator[list[str | None]]:
    """Compute the experts twice inside the block: as the model does, and apart; what differs is in the list."""
    found: list[str | None] = []
    original = mixture.module.forward

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
    tolerance = TOLERANCE.get(expected.dtype, 0.05)
    scale = float(expected.abs().max()) or 1.0
    if expected.shape != got.shape or float((expected - got).abs().max()) > tolerance * scale:
        return "what they give is not what their weights give on the tokens that reach them"
    if activation.shape[0] * activation.shape[1] != TOKENS:
        return f"{activation.shape[0] * activation.shape[1]} tokens reach them where {TOKENS} were read"
    lost = (activation == 0) & (hidden.abs() > tolerance * (float(hidden.abs().max()) or 1.0))
    return "a neuron whose activation is zero still enters the down-projection" if bool(lost.any()) else None


class _Check:
    """What one layer's FFN did in the pass."""

    def __init__(self, ffn: FFN, name: str):
        self.ffn, self.name = ffn, name
        self.first, self.second = 0, ffn.neurons - 1  # zeroed at the activation site, and at the hidden site
        self.seen: dict[str, list[Tensor]] = {"activation": [], "hidden": [], "up": [], "entered": [], "output": []}

    def attach(self, stack: ExitStack) -> None:
        """Zero and watch until the stack is left."""
        ffn, seen = self.ffn, self.seen

        def zero(site: str, neuron: int) -> Any:
            def change(x: Tensor) -> Tensor:
                seen[site].append(x.detach().clone())
                changed = x.clone()
                changed[..., neuron] = 0
                return changed

            return change

        stack.enter_context(ffn.edit("activation", zero("activation", self.first)))
        if not ffn.one_site:
            stack.enter_context(ffn.edit("hidden", zero("hidden", self.second)))
        up: Any = ffn.layout.up.projection

        def keep(name: str, value: Tensor) -> None:
            seen[name].append(value.detach().clone())

        for handle in (
            up.register_forward_hook(lambda m, _, output: keep("up", output)),
            ffn.down.register_forward_pre_hook(lambda m, inputs: keep("entered", inputs[0])),
            ffn.down.register_forward_hook(lambda m, _, output: keep("output", output)),
        ):
            stack.callback(handle.remove)

    def what_failed(self) -> str | None:
        """In words; None if all holds."""
        ffn = self.ffn
        needed = ["activation", "entered", "output", *([] if ffn.one_site else ["hidden", "up"])]
        passed = {name: len(self.seen[name]) for name in needed}
        if set(passed.values()) != {1}:
            name = next(name for name, times in passed.items() if times != 1)
            return f"its {name} site was passed {passed[name]} times in one forward pass"
        activation, entered, output = (self.seen[name][0].float() for name in ("activation", "entered", "output"))
        if activation.shape[-1] != ffn.neurons or entered.shape[-1] != ffn.neurons:
            return f"its activation has {activation.shape[-1]} numbers a token where {ffn.neurons} enter it"
        if activation.numel() != TOKENS * ffn.neurons:
            return f"{activation.numel() // ffn.neurons} positions pass it where {TOKENS} tokens were read"
        if not bool(torch.isfinite(entered).all() & torch.isfinite(activation).all()):
            return None  # weights that give no numbers prove nothing, and recording refuses them
        if bool(entered[..., self.first].any()):
            return "a neuron whose activation was zeroed still enters it"
        activation[..., self.first] = 0
        before = entered if ffn.one_site else self.seen["hidden"][0].float()
        expected = activation
        if ffn.gated:
            up = self.seen["up"][0].float()[..., ffn.layout.up.index]
            expected = activation * up.reshape(activation.shape)
        if not ffn.layout.normed and not _proportional(
            before.reshape(expected.shape), expected, self._tolerance(), ffn
        ):
            return "what enters it is not the activation" + (" times the up-projection" if ffn.gated else "")
        return self._columns(before, entered, output)

    def _tolerance(self) -> float:
        return TOLERANCE.get(self.seen["entered"][0].dtype, 0.05)

    def _columns(self, before: Tensor, entered: Tensor, output: Tensor) -> str | None:
        """Zeroing a neuron is zeroing its column: the other columns give what left."""
        weight = self.ffn.down.weight
        if not isinstance(weight, Tensor) or weight.device.type == "meta" or not weight.is_floating_point():
            return None  # packed or elsewhere: the product is its own
        columns = self.ffn.down_columns[:ROWS].detach().float().clone()
        if not self.ffn.one_site:
            columns[:, self.second] = 0
        columns[:, self.first] = 0
        bias = getattr(self.ffn.down, "bias", None)
        by_hand = before.flatten(0, -2).to(columns.device) @ columns.T
        by_hand = by_hand if bias is None else by_hand + bias[:ROWS].detach().float()
        got = output.flatten(0, -2)[:, :ROWS].to(by_hand.device)
        scale = float(by_hand.abs().max()) or 1.0
        if float((by_hand - got).abs().max()) > self._tolerance() * scale:
            return "what leaves it is not the product of its weight with the neurons that enter it"
        return None


def _proportional(got: Tensor, expected: Tensor, tolerance: float, ffn: FFN) -> bool:
    """Whether a tensor is a constant times another, to rounding; the constant is 1 where there is one site."""
    square = float(expected.square().sum())
    factor = 1.0 if ffn.one_site or not square else float((got * expected).sum()) / square
    scale = float(got.abs().max()) or 1.0
    return float((got - factor * expected).abs().max()) <= tolerance * scale and (factor != 0 or not square)
