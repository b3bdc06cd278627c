"""Directions that others publish: tensors of one vector a layer, and recipes that add them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuroglot.edit.interventions import Add
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.given import check_file, takes_numbers

__all__ = ["load_directions", "steer_along"]


def load_directions(path: str | Path) -> Float64[Tensor, "layers width"]:
    """Read one vector a layer, from

    - a torch file as CLaS-Bench publishes them: a dictionary with `steering_vectors`, (layers, width), or with
      `probes`, layer → `weight` of (1, width); or a tensor (layers, width) alone;
    - a `.safetensors` file with `layer.i`, such as `Recipe.export` writes; layers without one are 0. Or with a single
      tensor (layers, width).

    What a file's vectors mean is up to its method: those that CLaS-Bench calls DiffMean are mean states of one
    language, to be subtracted from each other.

    Raises:
        NeuroglotError: the file is missing, damaged, holds more than tensors or other tensors, or they are no numbers.
    """
    path = Path(path)
    check_file(path, "give a file of directions")
    found = _plain_tensors(path) if path.suffix == ".safetensors" else _pickled(path)
    try:
        vectors = torch.as_tensor(_rows(found)).detach().to(torch.float64)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise NeuroglotError(
            f"{path} holds no directions: steering_vectors of (layers, width), probes by layer, or layer.i of width."
        ) from error
    if vectors.ndim != 2 or not vectors.numel():
        raise NeuroglotError(f"{path} holds tensors of shape {tuple(vectors.shape)}; directions are (layers, width).")
    if not bool(vectors.isfinite().all()):
        raise NeuroglotError(f"{path} holds values that are not numbers; download it again.")
    return vectors


def _pickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # someone else's bytes: the unpickler raises whatever it meets
        raise NeuroglotError(f"{path} is damaged or holds more than tensors; download it again.") from error


def _plain_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            layers = (file.metadata() or {}).get("layers", "")
    except (OSError, SafetensorError) as error:
        raise NeuroglotError(f"{path} is damaged or not a safetensors file; download it again.") from error
    if layers.isdecimal() and tensors:
        width = len(next(iter(tensors.values())))
        tensors = {f"layer.{layer}": torch.zeros(width) for layer in range(int(layers))} | tensors
    return tensors


def _rows(found: Any) -> Any:
    """The tensor of directions in what a file holds."""
    if isinstance(found, Tensor):
        return found
    if "steering_vectors" in found:
        return found["steering_vectors"]
    if "probes" in found:
        probes: Mapping[Any, Any] = found["probes"]
        return torch.stack([torch.as_tensor(probes[layer]["weight"]).reshape(-1) for layer in range(len(probes))])
    if len(found) == 1:
        return next(iter(found.values()))
    return torch.stack([found[f"layer.{layer}"] for layer in range(len(found))])


@takes_numbers
def steer_along(
    model: Model,
    directions: Float[Tensor, "layers width"],
    *,
    layers: Sequence[int],
    strength: float = 1.0,
    unit: bool = True,
    when: When = "both",
    about: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe that adds a direction to the residual stream after some layers.

    Args:
        model: whose stream.
        directions: a vector a layer, such as `load_directions` gives.
        layers: from 0.
        strength: times the vector.
        unit: each layer's vector is divided by its length first, as CLaS-Bench does; then the strength is the length.
        when: on which tokens.
        about: how they were made, kept in the recipe.

    Raises:
        NeuroglotError: they are of another shape than the model's stream, there is no such layer, or no direction
            after any of them.
    """
    if tuple(directions.shape) != (model.layers, model.stream_width):
        raise NeuroglotError(
            f"These directions are of {' × '.join(map(str, directions.shape))}, and {model.name} has {model.layers} "
            f"layers of {model.stream_width}; take those of this model."
        )
    if not layers or any(layer not in range(model.layers) for layer in layers):
        raise NeuroglotError(f"Say after which layers to add a direction, from 0 to {model.layers - 1}.")
    values = directions.to(torch.float64)
    there = [layer for layer in range(model.layers) if bool(values[layer].any())]
    if not set(layers) & set(there):
        known = f"only after {', '.join(map(str, there))}" if there else "all are 0"
        raise NeuroglotError(f"There is no direction after these layers, counted from 0; {known}.")
    if unit:
        length = values.norm(dim=1, keepdim=True)
        values = torch.where(length > 0, values / length, 0.0)
    chosen = torch.zeros(values.shape, dtype=torch.bool)
    chosen[list(layers)] = True
    said = {"model": model.name, "layers": list(layers), "strength": strength, "unit": unit, "when": when}
    step = Add(chosen, values, strength, site="residual", when=when)
    return Recipe([step], model.fingerprint, {**said, **(about or {})})
