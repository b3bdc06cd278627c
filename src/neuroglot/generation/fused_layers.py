"""Decoder layers of fewer launches: what reads one input is one product, and a product adds the residual.

Between its products a gated FFN is one kernel, the edits of its neurons inside it. What takes the place of a module's
own code is tried beside it on random states first, and only where no hook would be passed by.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroglot.edit.rows import Place, RowEdits
from neuroglot.models.architecture.devices import SharedCopies, devices_of, is_placed
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.model import Model

__all__ = ["FusedLayers"]

JOINED_SHARE = 0.03
"""Of the devices' memory, that the copies of weights may take which are read as one matrix."""
ATTENTION = ("q_proj", "k_proj", "v_proj")
LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
FUNCTIONS: dict[Literal["silu", "gelu_tanh"], Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether two ways to compute states differ by no more than their rounding."""
    allowed = 1e-4 if one.dtype == torch.float32 else 0.02
    return float((one.float() - other.float()).abs().max()) <= allowed * float(other.float().abs().max())


@dataclass(eq=False)
class Norm:
    """A root-mean-square norm.

    Attributes:
        module: its module.
        weight: what it multiplies by.
        eps: is added to the mean square.
        more: is added to the weight; Gemma adds one.
    """

    module: nn.Module
    weight: Tensor
    eps: float
    more: int

    def forward(self, step: bool) -> Callable[[Tensor], Tensor]:
        """What takes the place of the module's own forward: torch's kernel, or for few tokens one of ours."""
        if not step:
            weight = self.weight + self.more if self.more else self.weight
            return lambda states: F.rms_norm(states, weight.shape, weight, self.eps)
        from neuroglot.generation.kernels import norm

        return lambda states: norm(states, self.weight, self.eps, self.more)


class Joined:
    """Projections of one input as one product: the first that is called computes all of them.

    Attributes:
        parts: the projections, without hooks while it is in force.
        weight: theirs, one below the other: a copy.
        bias: likewise, or None.
    """

    def __init__(self, parts: Sequence[nn.Linear]):
        self.parts = list(parts)
        self.weight = torch.cat([part.weight.detach() for part in parts])
        given = [part.bias for part in parts]
        # a projection without a bias adds zero
        none = [torch.zeros_like(part.weight[:, 0]) for part in parts]
        biases = [zero if bias is None else bias.detach() for bias, zero in zip(given, none, strict=True)]
        self.bias = None if all(bias is None for bias in given) else torch.cat(biases)
        self._input: Tensor | None = None
        self._made: list[Tensor] = []

    def refresh(self) -> None:
        """Copy the weights again, which may have been changed in place."""
        torch.cat([part.weight.detach() for part in self.parts], out=self.weight)
        if self.bias is not None:
            first = 0
            for part in self.parts:
                if part.bias is not None:
                    self.bias[first : first + part.out_features] = part.bias.detach()
                first += part.out_features

    def all(self, states: Tensor) -> list[Tensor]:
        """What every projection gives, views of one tensor."""
        return list(F.linear(states, self.weight, self.bias).split([part.out_features for part in self.parts], -1))

    def forward(self, number: int) -> Callable[[Tensor], Tensor]:
        """What takes the place of a projection's own forward."""
        part = self.parts[number]

        def one(states: Tensor) -> Tensor:
            if number == 0:
                self._input, self._made = states, self.all(states)
            elif states is not self._input:
                return F.linear(states, part.weight, part.bias)
            made = self._made[number]
            if number == len(self.parts) - 1:
                self.forget()
            return made

        return one

    def forget(self) -> None:
        """Hold no states."""
        self._input, self._made = None, []


@dataclass
class Adding:
    """A projection to the residual stream that adds what it gives to the stream in place, when it was handed one."""

    projection: nn.Linear
    stream: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """The stream with what the projection gives, or what the projection gives."""
        stream, self.stream = self.stream, None
        weight = self.projection.weight
        if stream is None:
            return F.linear(states, weight)
        flat = states.reshape(-1, states.shape[-1])
        stream.view(-1, stream.shape[-1]).addmm_(flat, weight.t())
        return stream


@dataclass
class GatedPart:
    """A gated FFN whose forward is `down(function(gate x) * up x)`.

    Attributes:
        module: the module of that forward.
        place: its layer.
        projections: the gate and up, or one that gives both, first the gate.
        down: the down-projection, which is called, hooks and all.
        function: of the gate.
        passed: the modules that are not called any more.
        joined: gate and up as one.
    """

    module: nn.Module
    place: int
    projections: list[nn.Linear]
    down: nn.Module
    function: Literal["silu", "gelu_tanh"]
    passed: list[nn.Module]
    joined: Joined | None = None

    def forward(self, edits: RowEdits | None, rows: int) -> Callable[[Tensor], Tensor]:
        """What takes the place of the module's own forward."""
        from neuroglot.generation.kernels import gated

        tables = [None if edits is None else edits.table(self.place, site, rows) for site in ("activation", "hidden")]

        def one(states: Tensor) -> Tensor:
            if len(self.projections) == 1:
                gate, up = self.projections[0](states).chunk(2, -1)
            elif self.joined is not None:
                gate, up = self.joined.all(states)
            else:
                gate, up = (F.linear(states, part.weight, part.bias) for part in self.projections)
            made: Tensor = self.down(gated(gate, up, self.function, rows, *tables))
            return made

        return one


@dataclass
class FusedLayers:
    """The parts of a model's layers that can have fewer launches.

    Attributes:
        norms: their root-mean-square norms.
        gated: their FFNs.
        joined: their projections of one input, those of attention.
        layers: those that are a norm and attention, then a norm and an FFN, each added to the stream.
    """

    norms: list["Norm"] = field(default_factory=list)
    gated: list[GatedPart] = field(default_factory=list)
    joined: list[Joined] = field(default_factory=list)
    layers: list[nn.Module] = field(default_factory=list)

    @classmethod
    @torch.inference_mode()
    def of(cls, model: Model) -> "FusedLayers":
        """Those of a model, each tried."""
        found = cls([norm for module in model.network.modules() if (norm := _norm(module)) is not None])
        for place, ffn in enumerate(model.ffns):
            part = _gated_part(ffn, place) if type(ffn) is FFN else None
            if part is not None:
                found.gated.append(part)
        attentions = [
            [getattr(module, name) for name in ATTENTION]
            for module in model.network.modules()
            if all(type(getattr(module, name, None)) is nn.Linear for name in ATTENTION)
        ]
        attentions = [parts for parts in attentions if len({part.in_features for part in parts}) == 1]
        pairs = [part.projections for part in found.gated if len(part.projections) == 2]
        sizes = [sum(part.weight.nbytes for group in groups for part in group) for groups in (attentions, pairs)]
        gpus = [device for device in devices_of(model.network) if device.type == "cuda"]
        total = sum(torch.cuda.get_device_properties(device).total_memory for device in gpus) or 1 << 34
        if sizes[0] <= JOINED_SHARE * total:
            found.joined = [Joined(parts) for parts in attentions]
        if sum(sizes) <= JOINED_SHARE * total:
            for part in found.gated:
                part.joined = Joined(part.projections) if len(part.projections) == 2 else None
        found.layers = [module for module in model.network.modules() if _is_plain(module)]
        return found

    def refresh(self) -> None:
        """Copy the weights again, which may have been changed in place."""
        for joined in (*self.joined, *(part.joined for part in self.gated if part.joined is not None)):
            joined.refresh()

    @contextmanager
    def applied(self, edits: RowEdits, rows: int, step: bool = True) -> Iterator[None]:
        """Put them and the interventions on the first rows in force inside the block.

        Args:
            edits: of each row.
            rows: how many; a pass may read several tokens of each.
            step: whether a step is captured. Else products do not add to the stream in place, so that what a hook
                keeps of it stays as it was.
        """
        parts = [part for part in self.gated if not any(map(_hooked, part.passed))]
        forwards: dict[nn.Module, Callable[..., Any]] = {norm.module: norm.forward(step) for norm in self.norms}
        forwards |= {part.module: part.forward(edits, rows) for part in parts}
        joined = [joined for joined in self.joined if not any(map(_hooked, joined.parts))]
        for group in joined:
            forwards |= {part: group.forward(number) for number, part in enumerate(group.parts)}
        if step:
            for layer in self.layers:
                forwards |= _adding(layer)
        places: set[Place] = {(part.place, site) for part in parts for site in ("activation", "hidden")}
        with edits.applied(rows, places), replaced(forwards):
            try:
                yield
            finally:
                for group in joined:
                    group.forget()


@contextmanager
def replaced(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Put other code in the place of modules' forwards inside the block."""
    before = {module: module.__dict__["forward"] for module in forwards if "forward" in module.__dict__}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
        for module, forward in before.items():
            module.forward = forward


def _norm(module: nn.Module) -> Norm | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(weight, Tensor) or not isinstance(eps, float):
        return None
    states = _states((4, weight.shape[-1]), weight)
    expected = type(module).forward(module, states).detach().float()
    # a weight may be 600 in one dimension and 1 in the others, so each is compared by itself, and the nearer one taken
    allowed = 1e-4 if states.dtype == torch.float32 else 0.02
    apart = {}
    for more in (0, 1):
        norm = Norm(module, weight, eps, more)
        made = norm.forward(step=False)(states).detach().float()
        apart[norm] = float(((made - expected).abs() / (expected.abs() + allowed * expected.abs().median())).max())
    nearest = min(apart, key=lambda norm: apart[norm])
    return nearest if apart[nearest] <= allowed else None


def _gated_part(ffn: FFN, place: int) -> GatedPart | None:
    layout = ffn.layout
    function = _function(layout.activation)
    parents = [module for module in ffn.layer.modules() if any(child is ffn.down for child in module.children())]
    if function is None or layout.gate is None or layout.normed or len(parents) != 1:
        return None
    (module,) = parents
    projections: list[Any] = list(dict.fromkeys([layout.gate.projection, layout.up.projection]))
    if any(type(part) is not nn.Linear for part in (*projections, ffn.down)):
        return None
    passed: list[Any] = [*projections, layout.activation]
    part = GatedPart(module, place, projections, ffn.down, function, passed)
    states = _states((3, projections[0].in_features), projections[0].weight)
    try:
        same = alike(part.forward(None, 3)(states), type(module).forward(module, states))
    except Exception:  # whatever code of others raises
        return None
    return part if same else None


def _function(activation: Any) -> Literal["silu", "gelu_tanh"] | None:
    if not isinstance(activation, nn.Module):
        return None
    states = torch.linspace(-6, 6, 101)
    try:
        given = activation(states)
    except Exception:  # it may want other things, or another device
        return None
    return next((name for name, function in FUNCTIONS.items() if torch.allclose(given, function(states))), None)


def _states(shape: tuple[int, ...], weight: Tensor) -> Tensor:
    """Random states for a trial, of the device and type of a weight; the generator of the caller is left alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)


def _hooked(module: nn.Module) -> bool:
    """Whether more happens in a call than its class says, but that what it is given comes to its device."""
    before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, SharedCopies)]
    return bool(module._forward_hooks or before or ("forward" in module.__dict__ and not is_placed(module)))


def _is_plain(layer: Any) -> bool:
    """Whether a layer is `x += attention(norm x); x += ffn(norm x)`: it is tried with its attention as it is."""
    if {name for name, _ in layer.named_children()} != LAYER:
        return False
    try:
        writers = [layer.self_attn.o_proj, layer.mlp.down_proj]
    except AttributeError:
        return False
    if any(type(writer) is not nn.Linear or writer.bias is not None for writer in writers):
        return False
    weight = writers[0].weight
    # small beside what is added to it, so that what is added is what is compared
    stream = 0.01 * _states((1, 2, weight.shape[0]), weight)
    width = getattr(layer.self_attn, "head_dim", None)
    if not isinstance(width, int):
        return False
    angles = _states((1, 2, width), weight)
    given = {
        "attention_mask": None,
        "position_embeddings": (angles.cos(), angles.sin()),
    }
    try:
        own = type(layer).forward(layer, stream.clone(), **given)
        with replaced(_adding(layer)):
            quick = layer.forward(stream.clone(), **given)
    except Exception:  # of another signature
        return False
    return isinstance(own, Tensor) and alike(quick, own)


def _adding(layer: Any) -> dict[nn.Module, Callable[..., Any]]:
    """Other forwards for a plain layer and its projections to the stream; none where a hook would see a sum."""
    writers = [layer.self_attn.o_proj, layer.mlp.down_proj]
    if any(part._forward_hooks for part in (layer, *writers, layer.self_attn, layer.mlp)):
        return {}
    attention, ffn = map(Adding, writers)

    def forward(hidden_states: Tensor, **given: Any) -> Tensor:
        attention.stream = hidden_states
        states, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **given)
        ffn.stream = states
        out: Tensor = layer.mlp(layer.post_attention_layernorm(states))
        return out

    return {layer: forward, writers[0]: attention.forward, writers[1]: ffn.forward}
