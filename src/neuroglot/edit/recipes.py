"""Steering recipes: which neurons to set to what, so that a model answers in a language; one file, one line to apply.

Tang et al. (2024, §3.3.4) raise the target language's neurons to their mean in it, and switch the source language's
off. Later work adds or scales instead. A `Recipe` is any sequence of such interventions, bound to one model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from neuroglot.edit.baking import bake
from neuroglot.edit.conditions import digest_of_steps, plain_steps
from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale, intervene
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.tensors import load_tensors, save_tensors

__all__ = ["Recipe"]

KIND, VERSION = "recipe", 1
KINDS: dict[str, type[Intervention]] = {
    "deactivate": Deactivate,
    "replace": Replace,
    "raise": Raise,
    "add": Add,
    "scale": Scale,
}


class Recipe:
    """Interventions in their order, and the model they are for.

    Attributes:
        steps: the interventions, in the order in which they apply.
        fingerprint: of the model.
        about: how it was made (JSON): target, source, method …
    """

    def __init__(self, steps: Sequence[Intervention], fingerprint: str, about: Mapping[str, Any] | None = None):
        self.steps = tuple(steps)
        self.fingerprint = fingerprint
        self.about = dict(about or {})
        for step in self.steps:
            if type(step) not in KINDS.values():
                raise NeuroglotError(f"{type(step).__name__} cannot be kept in a recipe; use {', '.join(KINDS)}.")

    def __repr__(self) -> str:
        steps = ", ".join(
            f"{type(step).__name__.lower()} {int(step.neurons.sum()):,} at {step.site}" for step in self.steps
        )
        return f"<recipe: {steps or 'nothing'}>"

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
            raise NeuroglotError(
                f"This recipe was made for {made_for} (fingerprint {self.fingerprint[:8]}), and {model.name} has other "
                f"weights ({model.fingerprint[:8]}); neurons mean nothing in another model: make a recipe for this one."
            )

    def bake(self, model: Model, path: str | Path) -> Path:
        """Write a plain checkpoint whose logits are those under the recipe; see `neuroglot.bake` for which can be.

        Raises:
            NeuroglotError: it was made for another model, or a step cannot be said in weights.
        """
        self.check(model)
        return bake(model, self.steps, path)

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
        steps = []
        for number, said in enumerate(header["steps"]):
            index = tensors[f"{number}.neurons"].long()
            mask = torch.zeros(said["shape"], dtype=torch.bool)
            mask[index[:, 0], index[:, 1]] = True
            named: dict[str, Any] = {"site": said["site"], "when": said["when"]}
            if said["strength"] is not None:
                named["strength"] = said["strength"]
            if f"{number}.values" in tensors:
                values = torch.zeros(said["shape"], dtype=torch.float64)
                values[index[:, 0], index[:, 1]] = tensors[f"{number}.values"]
                named["values"] = values
            elif said["value"] is not None:
                named["values"] = said["value"]
            steps.append(KINDS[said["kind"]](mask, **named))
        return cls(steps, header["fingerprint"], header["about"])
