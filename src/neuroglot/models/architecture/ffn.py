"""Where the FFN neurons of a model are. The only module that knows architectures.

A model family is one short declaration in `FAMILIES`. From it follow, for every layer, the two sites at which a neuron
is read or written (DESIGN: *activation* and *hidden*) and the weights that belong to it. To add a family, see
`docs/families.md`.

Sites. In a gated FFN, `down(act(gate x) * up x)`, the activation site is the output of the activation module and the
hidden site is the input of the down-projection. In a plain FFN, `down(act(fc x))`, they are one tensor, read and
written at the output of the activation module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neuroglot.models.architecture.families import Family
from neuroglot.models.architecture.sites import Edit, Site

__all__ = ["FFN", "is_matrix", "is_transposed"]


class FFN:
    """The FFN of one layer: its neurons' weights, and hooks on its sites.

    Attributes:
        family: how its architecture lays it out.
        gated: whether a gate is multiplied into the activation.
        layer: the decoder layer it is part of.
        neurons: how many hidden units it has.
    """

    def __init__(self, family: Family, layer: nn.Module):
        self.family = family
        self.gated = family.gated
        self.layer = layer
        self.activation = layer.get_submodule(family.activation)
        self.down = layer.get_submodule(family.down)
        self._up = layer.get_submodule(family.up)
        self._gate = layer.get_submodule(family.gate) if family.gate else None
        # in_features, since the weight of a quantised layer is packed; GPT-2's Conv1D has none
        self.neurons = int(getattr(self.down, "in_features", 0) or self.down_columns.shape[1])
        self._edits: dict[Site, list[Edit]] = {"activation": [], "hidden": []}

    @property
    def up_rows(self) -> Float[Tensor, "neurons width"]:
        """The up-projection's rows (gated) or fc1's (plain), one a neuron; a view of the weights."""
        return _rows(self._up)[-self.neurons :]  # a fused matrix holds the gate's rows first

    @property
    def gate_rows(self) -> Float[Tensor, "neurons width"] | None:
        """The gate projection's rows, one a neuron; a view of the weights; None in a plain FFN."""
        return None if self._gate is None else _rows(self._gate)[: self.neurons]

    @property
    def down_columns(self) -> Float[Tensor, "width neurons"]:
        """The down-projection's columns, one a neuron; a view of the weights."""
        return _rows(self.down)

    @property
    def projections(self) -> list[nn.Module]:
        """The modules that hold its weights: gate, if it has one, up and down; a fused one comes twice."""
        return [part for part in (self._gate, self._up, self.down) if part is not None]

    def keep(self, neurons: Int64[Tensor, " kept"]) -> Callable[[], None]:
        """Keep these neurons only, in this order, and give a function that puts all of them back.

        All of them in another order leave what the FFN computes as it was, to rounding.
        """
        first = neurons
        if self._gate is self._up:  # one matrix holds the gate's rows and then the up-projection's
            first = torch.cat([neurons, neurons + self.neurons])
        before = self.neurons
        undo = [_narrow(self._up, first, "out"), _narrow(self.down, neurons, "in")]
        if self._gate is not None and self._gate is not self._up:
            undo.append(_narrow(self._gate, neurons, "out"))
        self.neurons = len(neurons)

        def put_back() -> None:
            self.neurons = before
            for step in undo:
                step()

        return put_back

    @contextmanager
    def edit(self, site: Site, change: Edit) -> Iterator[None]:
        """Put `change(x)` in the place of the tensor `x` (…, neurons) at a site, inside the block.

        Nested edits of a site apply in the order they were made, and all of them before any observer sees the tensor.
        """
        if not self.gated:
            site = "activation"  # one tensor, and BLOOM may multiply it without calling its down-projection
        edits = self._edits[site]
        handle = None if edits else self._hook(site, edits)
        edits.append(change)
        try:
            yield
        finally:
            edits.remove(change)
            if handle is not None:
                handle.remove()

    def _hook(self, site: Site, edits: list["Edit"]) -> RemovableHandle:
        def apply(x: Tensor) -> Tensor:
            for change in edits:
                x = change(x)
            return x

        if site == "hidden":
            return self.down.register_forward_pre_hook(lambda _, inputs: (apply(inputs[0]), *inputs[1:]), prepend=True)
        return self.activation.register_forward_hook(lambda _, __, output: apply(output), prepend=True)


def is_transposed(projection: nn.Module) -> bool:
    """Whether a projection stores its weight as (in, out), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D  # what has such a projection has imported transformers

    return isinstance(projection, Conv1D)


def is_matrix(module: nn.Module) -> bool:
    """Whether a module multiplies with a matrix."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def _rows(projection: nn.Module) -> Tensor:
    """The weight of a projection as (out, in), whatever way round it is stored."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if is_transposed(projection) else weight


def _narrow(projection: nn.Module, index: Tensor, side: Literal["in", "out"]) -> Callable[[], None]:
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
