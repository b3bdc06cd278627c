"""Steering recipes: which neurons to set to what, so that a model answers in a language; one file, one line to apply.

Tang et al. (2024, §3.3.4) raise the target language's neurons to their mean in it, and switch the source language's
off. Later work adds or scales instead. A `Recipe` is any sequence of such interventions, bound to one model.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from neuroglot.baking import bake
from neuroglot.errors import NeuroglotError
from neuroglot.ffn import Site
from neuroglot.files import load_tensors, save_tensors
from neuroglot.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale, When, intervene
from neuroglot.languages import language_tag
from neuroglot.model import Model
from neuroglot.neurons import NeuronSet
from neuroglot.recording import Recording

__all__ = ["METHODS", "Method", "Recipe", "layer_numbers", "steer"]

Method = Literal["raise", "replace", "add", "difference", "scale"]
METHODS: tuple[Method, ...] = ("raise", "replace", "add", "difference", "scale")
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
        steps = ", ".join(f"{_kind(step)} {int(step.neurons.sum()):,} at {step.site}" for step in self.steps)
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
        tensors, steps = self._contents()
        digest = hashlib.sha256(json.dumps([self.fingerprint, steps]).encode())
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file: indices of neurons, their values, and the rest in its header."""
        tensors, steps = self._contents()
        about = {"steps": steps, "fingerprint": self.fingerprint, "about": self.about}
        return save_tensors(path, KIND, VERSION, tensors, about)

    def _contents(self) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        tensors: dict[str, Tensor] = {}
        steps = []
        for number, step in enumerate(self.steps):
            index = step.neurons.nonzero()
            tensors[f"{number}.neurons"] = index.to(torch.int32)
            values = getattr(step, "values", None)
            if isinstance(values, Tensor) and values.ndim:
                tensors[f"{number}.values"] = values[index[:, 0], index[:, 1]].to(torch.float64)
                values = None
            steps.append(
                {
                    "kind": _kind(step),
                    "shape": list(step.neurons.shape),
                    "site": step.site,
                    "when": step.when,
                    "value": None if values is None else float(values),
                    "strength": getattr(step, "strength", None),
                }
            )
        return tensors, steps

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


def _kind(step: Intervention) -> str:
    return next(name for name, kind in KINDS.items() if type(step) is kind)


def layer_numbers(text: str | None, layers: int) -> tuple[int, ...] | None:
    """Layers from 0, from `1-3,16-18`, which counts from 1.

    Raises:
        NeuroglotError: it is no such list, or the model has no such layer.
    """
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if (
            not (first.isdigit() and (last.isdigit() or not last))
            or not 1 <= int(first) <= int(last or first) <= layers
        ):
            raise NeuroglotError(f"layers takes numbers from 1 to {layers} such as 1-3,16, not {text!r}.")
        numbers.update(range(int(first) - 1, int(last or first)))
    return tuple(sorted(numbers))


def steer(
    recording: Recording,
    neurons: NeuronSet,
    to: str | None,
    *,
    source: str | None = None,
    method: Method = "replace",
    site: Site = "activation",
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    when: When = "both",
) -> Recipe:
    """A recipe that has a model answer in a language.

    First the source language's neurons are switched off, if one is named (those that are the target's too are left to
    the target), then the target's are changed by their values in the recording.

    Args:
        recording: of the model; its means are the values.
        neurons: whose.
        to: the target language; None only switches the source off.
        source: the language to switch off.
        method: `raise` to the target's mean what is below it; `replace` by it; `add` it; add its `difference` from the
            mean of the other languages; or `scale` what is there.
        site: where; the mean of the same site is taken.
        strength: times the mean or the difference; the factor itself for `scale`.
        layers: from 0; all by default.
        when: on the tokens of the prompt, those generated, or both.

    Raises:
        NeuroglotError: a language is not in the recording or has no neurons; the recording lacks the site, names no
            model or is of another shape; a setting is not one of those named.
    """
    if method not in METHODS:
        raise NeuroglotError(f"The method is {', '.join(METHODS)}, not {method!r}.")
    if to is None and source is None:
        raise NeuroglotError("Name a language to steer to, or one to switch off.")
    if recording.provenance is None:
        raise NeuroglotError("This recording names no model, so a recipe could not say whose neurons it changes.")
    if neurons.shape != (recording.layers, recording.neurons):
        raise NeuroglotError(
            f"The neurons are of {neurons.shape[0]} × {neurons.shape[1]}, and the recording of {recording.layers} × "
            f"{recording.neurons}; take both from one run."
        )
    chosen = torch.zeros(neurons.shape, dtype=torch.bool)
    within = range(recording.layers) if layers is None else layers
    if any(layer not in range(recording.layers) for layer in within):
        raise NeuroglotError(f"Layers are numbered from 0 to {recording.layers - 1} here.")
    chosen[list(within)] = True
    steps: list[Intervention] = []
    target = torch.zeros_like(chosen)
    if to is not None:
        target = neurons[to] & chosen
        if not bool(target.any()):
            raise NeuroglotError(
                f"These neurons have none for {to} in these layers, so nothing can be raised; identify more, "
                "with a larger top_fraction."
            )
    if source is not None:
        steps.append(Deactivate(neurons[source] & chosen & ~target, site=site, when=when))
    if to is not None:
        if method == "scale":
            steps.append(Scale(target, float(strength), site=site, when=when))
        else:
            mean = recording.language_difference if method == "difference" else recording.language_mean
            kind = {"raise": Raise, "replace": Replace}.get(method, Add)
            steps.append(kind(target, mean(to, site), strength, site=site, when=when))
    about = {
        "model": recording.provenance.model,
        "to": None if to is None else language_tag(to),
        "source": None if source is None else language_tag(source),
        "method": method,
        "site": site,
        "strength": strength,
        "layers": None if layers is None else list(layers),
        "when": when,
        "neurons": neurons.about.get("method"),
    }
    return Recipe(steps, recording.provenance.fingerprint, about)
