"""Where the FFN neurons of a model are. The only module that knows architectures.

A model family is one short declaration in `FAMILIES`. From it follow, for every layer, the two sites at which a neuron
is read or written (DESIGN: *activation* and *hidden*) and the weights that belong to it. To add a family, see
`docs/families.md`.

Sites. In a gated FFN, `down(act(gate x) * up x)`, the activation site is the output of the activation module and the
hidden site is the input of the down-projection. In a plain FFN, `down(act(fc x))`, they are one tensor, read and
written at the output of the activation module.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from neuroglot.errors import NeuroglotError

__all__ = ["FAMILIES", "FFN", "Family", "Site", "find_ffns", "watch", "watch_residual"]

Site = Literal["activation", "hidden"]
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """Where one family of architectures keeps its FFN, as dotted attribute names.

    Attributes:
        types: the `model_type`s of the configs that follow this layout.
        activation: the activation module, from a layer.
        down: the down-projection, from a layer.
        up: the up-projection of a gated FFN, or the only projection (fc1) of a plain one, from a layer.
        gate: the gate projection, from a layer; empty for a plain FFN; the same as `up` where one matrix holds the
            gate's rows and then the up-projection's.
        layers: the list of layers, from the decoder.
        width: the config's name for the neurons a layer; empty where the architecture fixes it.
    """

    types: tuple[str, ...]
    activation: str
    down: str
    up: str
    gate: str = ""
    layers: str = "layers"
    width: str = "intermediate_size"

    @property
    def gated(self) -> bool:
        """Whether the FFN multiplies a gate into the activation."""
        return bool(self.gate)


FAMILIES = (
    Family(
        (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "olmo", "olmo2",
            "smollm3", "cohere", "cohere2", "granite",
        ),
        activation="mlp.act_fn", down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj",
    ),
    Family(("phi3",), "mlp.activation_fn", down="mlp.down_proj", up="mlp.gate_up_proj", gate="mlp.gate_up_proj"),
    Family(("phi",), "mlp.activation_fn", down="mlp.fc2", up="mlp.fc1"),
    Family(("opt", "xglm"), "activation_fn", down="fc2", up="fc1", width="ffn_dim"),
    Family(("gpt2",), "mlp.act", down="mlp.c_proj", up="mlp.c_fc", layers="h", width="n_inner"),
    Family(("bloom",), "mlp.gelu_impl", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h", layers="h", width=""),
    Family(
        ("falcon",), "mlp.act", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h", layers="h", width="ffn_hidden_size",
    ),
    Family(("gpt_neox",), "mlp.act", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h"),
)  # fmt: skip


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

    def take(self, neurons: Int64[Tensor, " kept"]) -> Callable[[], None]:
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


def _rows(projection: nn.Module) -> Tensor:
    """The weight of a projection as (out, in), whatever way round it is stored."""
    weight = projection.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(projection, Conv1D) else weight


def _narrow(projection: nn.Module, index: Tensor, side: Literal["in", "out"]) -> Callable[[], None]:
    """Keep these outputs or inputs of a projection, in this order, and give a function that undoes it."""
    turned = isinstance(projection, Conv1D)
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


def find_ffns(network: nn.Module) -> list[FFN]:
    """The FFNs of a Hugging Face causal language model, from the input to the output.

    Raises:
        NeuroglotError: the architecture is not one of `FAMILIES`, is a native mixture of experts, or does not look
            like its family.
    """
    config: Any = network.config
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    kind = config.model_type
    experts = next((k for k in ("num_experts", "num_local_experts", "n_routed_experts") if getattr(config, k, 0)), None)
    if experts or "moe" in kind:
        raise NeuroglotError(
            f"{kind} is a native mixture of experts, whose neurons are not all used by every token; Neuroglot reads "
            "dense FFNs only for now, so choose a dense model."
        )
    family = next((family for family in FAMILIES if kind in family.types), None)
    if family is None:
        known = sorted(name for family in FAMILIES for name in family.types)
        raise NeuroglotError(
            f"The architecture {kind!r} is not known; known are {', '.join(known)}. "
            "A family is a few lines in ffn.py: see docs/families.md."
        )
    try:
        layers = network.get_decoder().get_submodule(family.layers)  # type: ignore[operator]
        ffns = [FFN(family, layer) for layer in layers]
    except AttributeError as error:
        raise NeuroglotError(
            f"This {kind} model is not built as its family is ({error}); see docs/families.md to describe it."
        ) from error
    if len({id(ffn.activation) for ffn in ffns}) < len(ffns):
        raise NeuroglotError(
            f"This {kind} model shares one activation module between layers; its layers cannot be told apart."
        )
    return ffns


Observer = Callable[[int, Tensor, Tensor], None]


@contextmanager
def watch(ffns: Sequence[FFN], observe: Observer) -> Iterator[None]:
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
def watch_residual(ffns: Sequence[FFN], observe: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Call `observe(layer, states)` with the residual stream that leaves every layer, inside the block.

    States are (batch, tokens, width), before any norm that follows the last layer. Read them, do not write to them.
    """
    with ExitStack() as stack:
        for layer, ffn in enumerate(ffns):

            def read(_: nn.Module, __: Any, output: Any, layer: int = layer) -> None:
                observe(layer, output[0] if isinstance(output, tuple) else output)

            stack.callback(ffn.layer.register_forward_hook(read).remove)
        yield
