"""The weights of a checkpoint, read from its files a layer at a time: no model is ever in memory.

A checkpoint is a directory that `save_pretrained` writes (config.json and safetensors, in one file or several),
packaged weights, or a peft adapter (LoRA) beside the checkpoint that it was trained on, whose product is added as it is
read.
"""

from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import is_matrix, is_transposed
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.gguf import PACKAGED, converted, packaged
from neuroglot.models.layer_widths import without_weights
from neuroglot.models.sources import base_of, is_adapter, read_config

__all__ = ["Checkpoint"]

Rows = Float[Tensor, "neurons weights"]


class Checkpoint:
    """Where the weights of a causal language model are in its files.

    Args:
        source: a directory, a `.gguf` file, packaged weights (`gemma3-270m`), or an adapter's directory.
        base: the checkpoint that an adapter was trained on.

    Raises:
        NeuroglotError: there is no checkpoint, it is an adapter and no base was given, an adapter of a kind that does
            not add to weights, or its architecture is not known.
    """

    def __init__(self, source: str | Path, *, base: "Checkpoint | None" = None):
        self.name = str(source)
        self.base = base if is_adapter(source) else None
        if is_adapter(source) and base is None:
            wants = base_of(source)
            raise NeuroglotError(
                f"{source} is an adapter without its base; give the model it was trained on"
                + (f", {wants}." if wants else ".")
            )
        self.path = _directory(source)
        self._files = _files(self.path, "adapter_model" if self.base else "model")
        self._scale = _lora_scale(self.path) if self.base else 0.0

    @cached_property
    def layout(self) -> list["LayerNames"]:
        """The names of each layer's weights, from the architecture alone: nothing is read but config.json."""
        if self.base is not None:
            return self.base.layout
        from transformers import AutoConfig

        try:
            network = without_weights(AutoConfig.from_pretrained(self.path))
        except (OSError, ValueError, KeyError) as error:
            raise NeuroglotError(f"{self.name} has a config.json of no causal language model ({error}).") from error
        names = {id(module): name for name, module in network.named_modules()}
        result = []
        for ffn in find_ffns(network):
            prefix = names[id(ffn.layer)]
            linear = {
                f"{prefix}.{name}.weight": is_transposed(module)
                for name, module in ffn.layer.named_modules()
                if is_matrix(module)
            }
            parts = [names[id(part)] + ".weight" for part in ffn.projections]
            shapes = {name: tuple(network.get_parameter(name).shape) for name in linear}
            result.append(LayerNames(linear, parts, ffn.neurons, shapes))
        return result

    def weight(self, name: str) -> Float[Tensor, "rows columns"]:
        """One weight in float32, as it is stored.

        Raises:
            NeuroglotError: the files do not hold it, or hold it in another shape.
        """
        if self.base is None:
            return self._read(name).float()
        weight = self.base.weight(name)
        module = name.removesuffix(".weight")
        pair = [self._find(f"{module}.lora_{side}.weight") for side in "AB"]
        if None in pair:
            return weight
        first, second = (self._read(str(key)).float() for key in pair)
        product = self._scale * (second @ first)
        if any(layer.transposed.get(name) for layer in self.layout):
            product = product.T
        if product.shape != weight.shape:
            raise _other_shape(self.name, name, tuple(product.shape), tuple(weight.shape))
        return weight + product

    @cached_property
    def precision(self) -> str:
        """What its FFNs are stored in, such as bfloat16; of an adapter, whose product is exact, float32."""
        return "float32" if self.base else str(self._read(self.layout[0].ffn[0]).dtype).removeprefix("torch.")

    def change(self, name: str, before: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """How much a weight was tuned, in float32: the base's is rounded to the precision in which this one is stored.

        A base in float32 beside a variant in bfloat16 would otherwise differ in every weight by what was rounded away.

        Args:
            name: of the weight.
            before: the base's, in float32.

        Raises:
            NeuroglotError: see `weight`.
        """
        if self.base is not None:
            return self.weight(name) - before
        stored = self._read(name)
        return stored.float() - before.to(stored.dtype).float()

    def adapts(self, name: str) -> bool:
        """Whether it can differ from its base in this weight: an adapter names those that it changes."""
        return self.base is None or self._find(name.removesuffix(".weight") + ".lora_A.weight") is not None

    def check(self, base: "Checkpoint") -> None:
        """Refuse a checkpoint whose weights have not the shapes of the base's.

        Raises:
            NeuroglotError: as said.
        """
        if len(self.layout) != len(base.layout):
            raise NeuroglotError(
                f"{self.name} has {len(self.layout)} layers and {base.name} has {len(base.layout)}, so it was not "
                "tuned from it; give the model that it was tuned from as the base."
            )
        for mine, theirs in zip(self.layout, base.layout, strict=True):
            for name, shape in theirs.shapes.items():
                if mine.shapes.get(name) != shape:
                    raise _other_shape(self.name, name, mine.shapes.get(name), shape)

    def _find(self, name: str) -> str | None:
        """The stored name that ends with a weight's name: wrappers put prefixes before it."""
        if name in self._files:
            return name
        if name not in self._endings:
            tail = name.split(".", 1)[-1]
            found = [key for key in self._files if key.endswith(f".{name}")] or [
                key for key in self._files if key == tail or key.endswith(f".{tail}")
            ]
            self._endings[name] = found[0] if len(found) == 1 else None
        return self._endings[name]

    @cached_property
    def _endings(self) -> dict[str, str | None]:
        return {}

    def _read(self, name: str) -> Tensor:
        key = self._find(name)
        if key is None:
            raise NeuroglotError(f"{self.name} holds no weight {name}; it is incomplete or of another architecture.")
        try:
            with safe_open(self._files[key], framework="pt") as file:
                weight: Tensor = file.get_tensor(key)
                return weight
        except (OSError, SafetensorError) as error:
            raise NeuroglotError(f"{self._files[key]} is damaged ({error}); write the checkpoint again.") from error


class LayerNames:
    """One layer's weights: what they are called and how large they are.

    Attributes:
        transposed: name of every matrix of the layer → whether it is stored as (in, out), as GPT-2's are.
        ffn: the names of the FFN's matrices: gate, if it has one, up and down; a fused one comes twice.
        neurons: N.
        shapes: name → shape as stored.
    """

    def __init__(self, transposed: dict[str, bool], ffn: list[str], neurons: int, shapes: dict[str, tuple[int, ...]]):
        self.transposed = transposed
        self.ffn = ffn
        self.neurons = neurons
        self.shapes = shapes

    def by_neuron(self, weights: dict[str, Tensor]) -> Rows:
        """What belongs to each neuron, side by side: its rows of gate and up, and its column of down."""
        rows = {name: weights[name].T if self.transposed[name] else weights[name] for name in dict.fromkeys(self.ffn)}
        *into, down = self.ffn
        # a fused matrix holds the gate's rows and then the up-projection's
        parts = [part for name in dict.fromkeys(into) for part in rows[name].split(self.neurons)]
        return torch.cat([*parts, rows[down].T], dim=1)


def _directory(source: str | Path) -> Path:
    name = str(source)
    if name in PACKAGED:
        return packaged(name)
    if name.endswith(".gguf"):
        return converted(Path(source))
    path = Path(source)
    if not path.is_dir():
        raise NeuroglotError(f"There is no checkpoint at {source}; give a directory with config.json and safetensors.")
    if not (path / "config.json").is_file() and not is_adapter(path):
        raise NeuroglotError(f"{source} holds neither config.json nor adapter_config.json, so it is no checkpoint.")
    return path


def _files(path: Path, stem: str) -> dict[str, Path]:
    """Every stored weight's name → its file."""
    index = path / f"{stem}.safetensors.index.json"
    if index.is_file():
        return {name: path / file for name, file in read_config(index, "weight_map")["weight_map"].items()}
    file = path / f"{stem}.safetensors"
    if not file.is_file():
        raise NeuroglotError(f"{path} holds no {stem}.safetensors; save the model with safe_serialization.")
    try:
        with safe_open(file, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), file)
    except (OSError, SafetensorError) as error:
        raise NeuroglotError(f"{file} is damaged ({error}); write the checkpoint again.") from error


def _lora_scale(path: Path) -> float:
    config = read_config(path / "adapter_config.json", "r", "lora_alpha")
    if (
        config.get("peft_type") != "LORA"
        or config.get("use_dora")
        or config.get("rank_pattern")
        or config.get("alpha_pattern")
    ):
        raise NeuroglotError(
            f"{path} is an adapter of a kind that is not a plain LoRA; merge it into its base with peft and give that."
        )
    rank = config["r"]
    return float(config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank))


def _other_shape(name: str, weight: str, mine: object, theirs: object) -> NeuroglotError:
    return NeuroglotError(
        f"{name} has another shape than its base: {weight} is {mine} and not {theirs}; give the model that it was "
        "tuned from as the base."
    )
