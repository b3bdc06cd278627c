"""Sets of single parameters by language, their file, and what the model does without them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.files import load_tensors, save_tensors
from neuroglot.languages import language_tag
from neuroglot.model import Model

__all__ = ["ParameterSet", "zeroed"]

KIND, VERSION = "parameters", 1
Places = Mapping[str, Int64[Tensor, " chosen"]]


class ParameterSet:
    """For each language, single parameters: places in the flattened weights of a model. A value.

    Attributes:
        places: language → name of the weight → places in it, ascending.
        about: how it was made (JSON).
    """

    def __init__(self, places: Mapping[str, Places], about: Mapping[str, Any] | None = None):
        self.places = {language_tag(tag): dict(of_language) for tag, of_language in places.items()}
        self.about = dict(about or {})

    @property
    def languages(self) -> tuple[str, ...]:
        """The language tags."""
        return tuple(self.places)

    def __getitem__(self, language: str) -> Places:
        tag = language_tag(language)
        if tag not in self.places:
            raise NeuroglotError(f"These parameters have no {tag}; they have {', '.join(self.languages)}.")
        return self.places[tag]

    def __repr__(self) -> str:
        return f"<parameters: {', '.join(f'{tag} {count:,}' for tag, count in self.sizes().items())}>"

    def sizes(self) -> dict[str, int]:
        """How many parameters each language has."""
        return {tag: sum(map(len, places.values())) for tag, places in self.places.items()}

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file."""
        tensors = {f"{tag} {name}": index for tag, places in self.places.items() for name, index in places.items()}
        return save_tensors(path, KIND, VERSION, tensors, {"languages": self.languages, **self.about})

    @classmethod
    def load(cls, path: str | Path) -> "ParameterSet":
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing, damaged or of another kind.
        """
        tensors, about = load_tensors(path, KIND, VERSION)
        places: dict[str, dict[str, Tensor]] = {tag: {} for tag in about.pop("languages")}
        for key, index in tensors.items():
            tag, _, name = key.partition(" ")
            places[tag][name] = index
        return cls(places, about)


@contextmanager
@torch.no_grad()
def zeroed(model: Model, *chosen: Places) -> Iterator[None]:
    """Set parameters to zero inside the block (Tang et al. 2024, §3.2), and put them back after it.

    Args:
        model: whole and in memory.
        chosen: name of the weight → places in it, such as `parameters["fr"]`.

    Raises:
        NeuroglotError: the model has no such weight, or it is smaller.
    """
    undo: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for places in chosen:
            for name, index in places.items():
                undo.append(_zero(model, name, index))
        yield
    finally:
        for weight, index, old in reversed(undo):
            weight[index] = old


def _zero(model: Model, name: str, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    try:
        weight = model.network.get_parameter(name).detach()
    except AttributeError as error:
        raise NeuroglotError(f"{model.name} has no weight {name}; these parameters are of another model.") from error
    if len(index) and int(index.max()) >= weight.numel():
        raise NeuroglotError(f"{name} of {model.name} has {weight.numel():,} parameters; these are of another model.")
    if not weight.is_contiguous() or not weight.is_floating_point():
        raise NeuroglotError(
            f"{name} of {model.name} is packed or spread; load the model whole, in float32 or bfloat16."
        )
    flat, index = weight.view(-1), index.to(weight.device)
    old = flat[index].clone()
    flat[index] = 0
    return flat, index, old
