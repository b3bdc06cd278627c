"""The FFN of a layer: the weights of its neurons, and the sites at which they are read and written.

In a gated FFN, `down(act(gate x) * up x)`, the activation site is the output of the activation function and the hidden
site is the input of the down-projection. In a plain FFN, `down(act(fc x))`, they are one tensor, read and written at
the output of the activation function. Where a norm stands before the down-projection, the hidden site is after it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.edits import Edits, at_input, at_output, at_stream
from neuroglot.models.architecture.sites import EAGER, UNWATCHED, Edit, InlineCall, Site
from neuroglot.models.architecture.weights import is_readable

__all__ = ["FFN", "Layout", "Observer", "Rows", "is_matrix", "is_transposed", "narrow_projection", "out_features"]

Observer = Callable[[Tensor, Tensor], None]

LOST = (
    "the place of its neurons was not passed. Something (a compiled or fused kernel) has taken its place; use the "
    "network as transformers opens it"
)


@dataclass(frozen=True)
class Rows:
    """Some rows of a projection, one a neuron: all of them, or a half of a fused one."""

    projection: nn.Module
    first: int = 0
    step: int = 1
    count: int | None = None

    @property
    def index(self) -> slice:
        """Of its rows."""
        return slice(self.first, None if self.count is None else self.first + self.step * self.count, self.step)

    @property
    def weight(self) -> Float[Tensor, "rows width"]:
        """Of its projection; a view."""
        return _rows(self.projection)[self.index]


@dataclass(frozen=True)
class Layout:
    """Where one layer keeps its FFN, however that was found.

    Attributes:
        layer: the decoder layer it is part of.
        activation: what gives the activation: a module, or a call in the forward of one.
        down: the down-projection.
        up: the rows of the up-projection of a gated FFN, or of the only projection (fc1) of a plain one.
        gate: the rows of the gate projection; None in a plain FFN.
        normed: whether a norm stands between the product and the down-projection, as BitNet's does.
        width: the config's name for the neurons a layer; empty where that is not known.
    """

    layer: nn.Module
    activation: nn.Module | InlineCall
    down: nn.Module
    up: Rows
    gate: Rows | None = None
    normed: bool = False
    width: str = ""


class FFN:
    """The FFN of one layer: its neurons' weights, and hooks on its sites.

    Attributes:
        layout: where its parts are.
        gated: whether a gate is multiplied into the activation.
        one_site: whether the activation is what enters the down-projection.
        layer: the decoder layer it is part of.
        neurons: how many hidden units it has.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.gated = layout.gate is not None
        self.one_site = not self.gated and not layout.normed
        self.layer = layout.layer
        self.activation = layout.activation
        self.down = layout.down
        self._up, self._gate = layout.up, layout.gate
        # in_features, since the weight of a quantised layer is packed; GPT-2's Conv1D has none
        self.neurons = int(getattr(self.down, "in_features", 0) or self.down_columns.shape[1])
        self._edits: dict[Site, Edits] = {
            "activation": Edits(self.layer, at_output(self.activation), LOST),
            "hidden": Edits(self.layer, at_input(self.down), LOST),
            "residual": Edits(self.layer, at_stream(self.layer), LOST),
        }

    @property
    def up_rows(self) -> Float[Tensor, "neurons width"]:
        """The up-projection's rows (gated) or fc1's (plain), one a neuron; a view of the weights."""
        return self._up.weight

    @property
    def gate_rows(self) -> Float[Tensor, "neurons width"] | None:
        """The gate projection's rows, one a neuron; a view of the weights; None in a plain FFN."""
        return None if self._gate is None else self._gate.weight

    @property
    def down_columns(self) -> Float[Tensor, "width neurons"]:
        """The down-projection's columns, one a neuron; a view of the weights."""
        return _rows(self.down)

    @property
    def readable(self) -> bool:
        """Whether its weights' numbers can be read and written: they are neither quantised nor offloaded."""
        parts: list[Any] = self.projections
        return all(is_readable(part.weight) for part in parts)

    @property
    def projections(self) -> list[nn.Module]:
        """The modules that hold its weights: gate, if it has one, up and down; a fused one comes twice."""
        return [*([self._gate.projection] if self._gate else []), self._up.projection, self.down]

    def neuron_weights(self) -> list[tuple[Any, slice | None]]:
        """The modules that hold neurons' weights: with the rows (of outputs) that are neurons, None for columns."""
        parts = [part for part in (self._gate, self._up) if part is not None]
        return [*((part.projection, part.index) for part in parts), (self.down, None)]

    def keep(self, neurons: Int64[Tensor, " kept"]) -> Callable[[], None]:
        """Keep these neurons only, in this order, and give a function that puts all of them back.

        All of them in another order leave what the FFN computes as it was, to rounding.

        Raises:
            NeuroglotError: its projection holds other things besides, or a norm over all neurons follows.
        """
        before = self.neurons, self._up, self._gate
        wanted = [(self.down, neurons, "in"), *_kept_rows(self._up, self._gate, neurons, self.neurons)]
        if self.layout.normed:
            raise NeuroglotError(
                "A norm over all neurons stands before this model's down-projections, so none can be taken out alone; "
                "deactivate them instead."
            )
        undo = [narrow_projection(projection, index, side) for projection, index, side in wanted]
        if self._gate is not None and self._gate.projection is self._up.projection:
            self._gate, self._up = (_scaled(part, len(neurons)) for part in (self._gate, self._up))
        self.neurons = len(neurons)

        def put_back() -> None:
            self.neurons, self._up, self._gate = before
            for step in undo:
                step()

        return put_back

    @property
    def edited(self) -> bool:
        """Whether an intervention is in force."""
        return any(self._edits.values())

    @contextmanager
    def edit(self, site: Site, change: Edit) -> Iterator[None]:
        """Put `change(x)` in the place of the tensor `x` (…, neurons) at a site, inside the block.

        At the residual site x is (batch, tokens, width of the stream), as it leaves the layer. See `Edits.edit`.

        Raises:
            NeuroglotError: the layer ran and the site was not passed, or another thread runs the model.
        """
        # in a plain FFN they are one tensor, and BLOOM may multiply it without calling its down-projection
        edits = self._edits["activation" if self.one_site and site == "hidden" else site]
        with edits.edit(change):
            yield

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer(activation, hidden)` in every forward pass of this thread, until what is given is called.

        Both tensors are (…, neurons), in the model's dtype on the layer's device, after any intervention in force.
        They are the model's own: read them, do not write to them.
        """
        thread = threading.get_ident()
        kept: list[Tensor] = []

        def keep(module: Any, _: Any, output: Tensor) -> None:
            if module is self.activation and threading.get_ident() == thread:
                if self.one_site:
                    observer(output, output)
                else:
                    kept[:] = [output]

        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module is self.down and threading.get_ident() == thread:
                with UNWATCHED():
                    observer(kept.pop(), inputs[0])

        handles: list[Any] = [self.activation.register_forward_hook(keep)]
        if not self.one_site:
            handles.append(self.down.register_forward_pre_hook(read))
        EAGER.__enter__()

        def stop() -> None:
            EAGER.__exit__()
            for handle in handles:
                handle.remove()

        return stop


def is_transposed(projection: nn.Module) -> bool:
    """Whether a projection stores its weight as (in, out), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D  # what has such a projection has imported transformers

    return isinstance(projection, Conv1D)


def is_matrix(module: nn.Module) -> bool:
    """Whether a module multiplies with a matrix, packed ones among them."""
    features = hasattr(module, "in_features") and hasattr(module, "out_features") and hasattr(module, "weight")
    return isinstance(module, nn.Linear) or features or is_transposed(module)


def out_features(projection: nn.Module) -> int:
    """How many rows a projection has, packed or not."""
    return int(getattr(projection, "out_features", 0) or getattr(projection, "nf", 0))


def _rows(projection: nn.Module) -> Tensor:
    """The weight of a projection as (out, in), whatever way round it is stored."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if is_transposed(projection) else weight


def _kept_rows(
    up: Rows, gate: Rows | None, neurons: Tensor, width: int
) -> list[tuple[nn.Module, Tensor, Literal["in", "out"]]]:
    """Which outputs of which projections belong to some of the neurons."""
    parts = [part for part in (gate, up) if part is not None]
    if len({id(part.projection) for part in parts}) == len(parts):
        for part in parts:
            _check_rows(part.projection, width)
        return [(part.projection, neurons, "out") for part in parts]
    projection = up.projection
    _check_rows(projection, 2 * width)
    kept = [part.first + part.step * neurons for part in sorted(parts, key=lambda part: part.first)]
    together = torch.stack(kept, 1).flatten() if up.step == 2 else torch.cat(kept)
    return [(projection, together, "out")]


def _check_rows(projection: nn.Module, expected: int) -> None:
    if _rows(projection).shape[0] != expected:
        raise NeuroglotError(
            "The projection that holds this model's neurons holds other things besides, so none can be taken out; "
            "deactivate them instead."
        )


def _scaled(part: Rows, after: int) -> Rows:
    """The same part of a fused projection when there are fewer neurons."""
    first = part.first if part.step == 2 or not part.first else after
    return Rows(part.projection, first, part.step, after)


def narrow_projection(projection: nn.Module, index: Tensor, side: Literal["in", "out"]) -> Callable[[], None]:
    """Keep these outputs or inputs of a projection, in this order, and give a function that undoes it."""
    turned = is_transposed(projection)
    names = {"out": "nf" if turned else "out_features", "in": "nx" if turned else "in_features"}
    old = {"weight": projection.weight, names[side]: getattr(projection, names[side])}
    if side == "out" and projection.bias is not None:
        old["bias"] = projection.bias
    for name in ("weight", "bias"):
        if name in old:
            values: Any = old[name]
            axis = (0 if side == "out" else 1) ^ (turned and name == "weight")
            kept = values.detach().index_select(axis, index.to(values.device))
            setattr(projection, name, nn.Parameter(kept, requires_grad=values.requires_grad))
    setattr(projection, names[side], len(index))

    def undo() -> None:
        for name, value in old.items():
            setattr(projection, name, value)

    return undo
