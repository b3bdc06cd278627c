"""Steering recipes: which neurons to set to what, so that a model answers in a language; one file, one line to apply.

Tang et al. (2024, §3.3.4) raise the target language's neurons to their mean in it, and switch the source language's
off. Later work adds or scales instead. A `Recipe` is any sequence of such interventions, bound to one model.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from neuroglot.edit.baking import bake
from neuroglot.edit.conditions import digest_of_steps, plain_steps
from neuroglot.edit.control_vector import export, on_the_stream
from neuroglot.edit.drift import AddOnDrift
from neuroglot.edit.interventions import MASKS, Add, Deactivate, Raise, Replace, Scale, UnitChange, described, intervene
from neuroglot.edit.positions import When
from neuroglot.edit.routing import DeactivateExperts, FavourExperts
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

__all__ = ["Recipe"]

KIND, VERSION = "recipe", 1
MOST = 1 << 28  # neurons of a model: five times those of the largest published one
ROUTING: dict[str, type[Any]] = {"deactivateexperts": DeactivateExperts, "favourexperts": FavourExperts}
KINDS: dict[str, type[Any]] = {
    "deactivate": Deactivate,
    "replace": Replace,
    "raise": Raise,
    "add": Add,
    "scale": Scale,
    "addondrift": AddOnDrift,
    **ROUTING,
}
DRIFT = ("probe", "threshold")
"""What a step that acts on drift says besides."""
SITES, WHEN = get_args(Site), get_args(When)


class Recipe:
    """Interventions in their order, and the model they are for.

    Attributes:
        steps: the interventions, in the order in which they apply.
        fingerprint: of the model.
        about: how it was made (JSON): target, source, method …
    """

    def __init__(self, steps: Sequence[UnitChange], fingerprint: str, about: Mapping[str, Any] | None = None):
        self.steps = tuple(steps)
        self.fingerprint = fingerprint
        self.about = dict(about or {})
        for step in self.steps:
            if type(step) not in KINDS.values():
                raise NeuroglotError(f"{type(step).__name__} cannot be kept in a recipe; use {', '.join(KINDS)}.")

    def __repr__(self) -> str:
        steps = ", ".join(f"{described(step)} at {step.site}" for step in self.steps)
        return f"<recipe: {steps or 'nothing'}>"

    def __add__(self, other: "Recipe") -> "Recipe":
        """The steps of both, this one's first; how the second was made is kept where the first does not say it.

        Raises:
            NeuroglotError: they are for different models.
        """
        if self.fingerprint != other.fingerprint:
            raise NeuroglotError("These recipes are for different models, so they cannot be joined.")
        said = {name: value for name, value in self.about.items() if value is not None}
        return Recipe((*self.steps, *other.steps), self.fingerprint, other.about | said)

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """Put the steps in force inside the block.

        Raises:
            NeuroglotError: it was made for another model.
        """
        self.check(model)
        with intervene(model, *self.steps):
            yield

    def check(self, model: Model) -> None:
        """Refuse a model of other weights.

        Raises:
            NeuroglotError: as said.
        """
        if model.fingerprint != self.fingerprint:
            made_for = self.about.get("model", "another model")
            routed = " or gives a token another number of experts" if model.mixtures else ""
            raise NeuroglotError(
                f"This recipe was made for {made_for} (fingerprint {self.fingerprint[:8]}), and {model.name} has other "
                f"weights{routed} ({model.fingerprint[:8]}); neurons mean nothing in another model: make a recipe for "
                "this one."
            )

    def bake(self, model: Model, path: str | Path) -> Path:
        """Write a plain checkpoint whose logits are those under the recipe; see `neuroglot.bake` for which can be.

        Raises:
            NeuroglotError: it was made for another model, or a step cannot be said in weights.
        """
        self.check(model)
        return bake(model, self.steps, path)

    def export(self, path: str | Path, model: Model | None = None) -> Path:
        """Write it for other engines, where it is a control vector exactly: steps that add to the residual stream.

        So does `Add` at the hidden site, by the down-projection of the model, where nothing norms what the FFN gives.

        Args:
            path: a .gguf, as llama.cpp's --control-vector takes it; or a .safetensors of plain tensors, `layer.i` to be
                added to the stream that leaves layer i (from 0).
            model: the recipe's, for steps that add to neurons.

        Raises:
            NeuroglotError: a step is something else, which is said; or llama.cpp has no place for it; or the model is
                another.
        """
        steps = self.steps
        if model is not None:
            self.check(model)
            steps = tuple(on_the_stream(model, steps))
        return export(steps, path, str(self.about.get("model", "")))

    @property
    def digest(self) -> str:
        """A digest of what the recipe does, and to which model; how it was made does not count."""
        return digest_of_steps(self.steps, self.fingerprint)

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file: indices of neurons, their values, and the rest in its header."""
        tensors, steps = plain_steps(self.steps)
        about = {"steps": steps, "fingerprint": self.fingerprint, "about": self.about}
        return save_tensors(path, KIND, VERSION, tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing, damaged or not a recipe.
        """
        tensors, header = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            steps = [
                _step(
                    said,
                    tensors[f"{number}.neurons"],
                    tensors.get(f"{number}.values"),
                    {name: tensors[f"{number}.{name}"] for name in DRIFT if said["kind"] == "addondrift"},
                )
                for number, said in enumerate(header["steps"])
            ]
            shapes = {(MASKS.get(step.site, "neurons"), step.units.shape) for step in steps}
            if len(shapes) > len({units for units, _ in shapes}):
                raise ValueError("its steps are for models of different shapes")
            if not isinstance(header["fingerprint"], str) or not header["fingerprint"]:
                raise ValueError("it names no model")
            return cls(steps, header["fingerprint"], dict(header["about"]))


def _step(said: Mapping[str, Any], index: Tensor, values: Tensor | None, drift: Mapping[str, Tensor]) -> UnitChange:
    """One step of a file; `drift` says when it acts, of one that does so only then.

    Raises:
        ValueError: a shape, an index or a number is none.
        KeyError: something is not said.
    """
    layers, width = said["shape"]
    if any(type(size) is not int or size < 1 for size in (layers, width)) or layers * width > MOST:
        raise ValueError(f"its shape is {said['shape']}")
    if index.is_floating_point() or index.ndim != 2 or index.shape[1] != 2:
        raise ValueError(f"its neurons are {index.dtype} {tuple(index.shape)}, not pairs of layer and neuron")
    rows, columns = index.long().unbind(1)
    if len(rows) and (int(index.min()) < 0 or int(rows.max()) >= layers or int(columns.max()) >= width):
        raise ValueError(f"it names neurons beyond its {layers} × {width}")
    mask = torch.zeros(layers, width, dtype=torch.bool)
    mask[rows, columns] = True
    if int(mask.sum()) != len(rows):
        raise ValueError("it names a neuron twice")
    sites = ("router",) if said["kind"] in ROUTING else SITES
    if said["site"] not in sites or said["when"] not in WHEN:
        raise ValueError(f"it acts at {said['site']!r} on {said['when']!r} tokens")
    if said["kind"] == "deactivateexperts":
        if said["when"] != "both":
            raise ValueError("experts are taken out on all tokens or on none")
        return DeactivateExperts(mask)
    if said["kind"] == "favourexperts":
        return FavourExperts(mask, strength=_number(said["strength"]), when=said["when"])
    named: dict[str, Any] = {"site": said["site"], "when": said["when"], **drift}
    if said["strength"] is not None:
        named["strength"] = _number(said["strength"])
    if values is not None:
        if tuple(values.shape) != (len(rows),) or not bool(torch.isfinite(values).all()):
            raise ValueError("its values are not one number for each neuron")
        named["values"] = torch.zeros(layers, width, dtype=torch.float64)
        named["values"][rows, columns] = values.to(torch.float64)
    elif said["value"] is not None:
        named["values"] = _number(said["value"])
    step: UnitChange = KINDS[said["kind"]](mask, **named)
    return step


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
