"""How declared model families lay out their FFN: exact, and the oracle of what is discovered in others."""

from dataclasses import dataclass

from torch import nn

from neuroglot.models.architecture.ffn import Layout, Rows

__all__ = ["FAMILIES", "Family"]


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

    def layout(self, layer: nn.Module) -> Layout:
        """Where a layer of this family keeps its FFN.

        Raises:
            AttributeError: the layer has no such part.
        """
        down, up = layer.get_submodule(self.down), layer.get_submodule(self.up)
        gate = layer.get_submodule(self.gate) if self.gate else None
        rows = Rows(up)
        if gate is up:  # the gate's rows first
            size = int(up.out_features) // 2  # type: ignore[call-overload]
            gate_rows, rows = Rows(up, 0, 1, size), Rows(up, size, 1, size)
        else:
            gate_rows = None if gate is None else Rows(gate)  # type: ignore[assignment]
        return Layout(layer, layer.get_submodule(self.activation), down, rows, gate_rows, width=self.width)


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
