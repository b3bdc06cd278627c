"""Partitions: every neuron of a layer in one of E experts."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import integer
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

__all__ = ["Kind", "Partition"]

KIND, VERSION = "partition", 1
Kind = Literal["parameter", "random", "contiguous", "labels"]


class ModelShape(Protocol):
    """What a partition has to know of a model: it stands below models and imports none."""

    name: str

    @property
    def fingerprint(self) -> str:
        """A digest of the weights."""

    @property
    def layers(self) -> int:
        """How many layers."""

    @property
    def neurons(self) -> int:
        """How many neurons a layer."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""


class Partition:
    """Which expert each neuron of one model belongs to.

    Attributes:
        labels: (L, N) int64, from 0 to E - 1; -1 beyond the width of a narrower layer.
        experts: how many experts a layer, E.
        about: how it was made: kind, settings, the model's name and fingerprint (JSON).

    Raises:
        NeuroglotError: labels are out of range, a neuron has no expert, or an expert has no neuron.
    """

    def __init__(self, labels: Int64[Tensor, "layers neurons"], experts: int, about: dict[str, Any] | None = None):
        self.labels = torch.as_tensor(labels).to("cpu", torch.int64)
        self.experts = experts = integer(experts, "experts", least=1)
        self.about = dict(about or {})
        if self.labels.ndim != 2 or int(self.labels.min()) < -1 or int(self.labels.max()) >= experts:
            raise NeuroglotError(
                f"labels must be (layers, neurons) integers from 0 to {experts - 1}, not {tuple(self.labels.shape)} "
                f"from {int(self.labels.min())} to {int(self.labels.max())}."
            )
        beyond = self.labels < 0
        if bool((beyond[:, :-1] & ~beyond[:, 1:]).any()) or bool(beyond.all(0).any()):
            raise NeuroglotError("A neuron has no expert (-1 is for what lies beyond a layer's width); give it one.")
        empty = (self.sizes == 0).nonzero().tolist()
        if empty:
            raise NeuroglotError(
                f"Expert {empty[0][1]} of layer {empty[0][0] + 1} has no neuron; give every expert one."
            )

    @property
    def widths(self) -> Int64[Tensor, " layers"]:
        """How many neurons each layer has."""
        return (self.labels >= 0).sum(1)

    def sums(self, values: Float64[Tensor, "layers neurons"]) -> Float64[Tensor, "layers experts"]:
        """Values of neurons, added up over each expert."""
        there = self.labels >= 0
        total = torch.zeros(len(values), self.experts, dtype=torch.float64)
        return total.scatter_add_(1, self.labels.clamp_min(0), torch.where(there, values, 0.0))

    @property
    def sizes(self) -> Int64[Tensor, "layers experts"]:
        """How many neurons each expert has."""
        return torch.stack([row[row >= 0].bincount(minlength=self.experts) for row in self.labels])

    @property
    def order(self) -> Int64[Tensor, "layers neurons"]:
        """The neurons of each layer, expert by expert: where `reorder` and `moefy` put which. Of even layers."""
        return self.labels.argsort(dim=1, stable=True)

    def frame(self) -> pd.DataFrame:
        """A row a neuron: layer (from 1, as the papers count), neuron (from 0, as in the tensors), expert (from 0)."""
        layers, neurons = self.labels.shape
        place = np.arange(layers * neurons)
        table = pd.DataFrame(
            {"layer": place // neurons + 1, "neuron": place % neurons, "expert": self.labels.flatten().numpy()}
        )
        return table[table["expert"] >= 0].reset_index(drop=True)  # -1 is no neuron

    @property
    def digest(self) -> str:
        """A digest of the labels, by which recordings know whose experts they counted."""
        return hashlib.sha256(f"{self.experts}".encode() + self.labels.numpy().tobytes()).hexdigest()[:32]

    def neurons(self, experts: Bool[Tensor, "layers experts"]) -> Bool[Tensor, "layers neurons"]:
        """The neurons of the chosen experts.

        Raises:
            NeuroglotError: `experts` is not a boolean (L, E) of this partition.
        """
        if experts.dtype != torch.bool or tuple(experts.shape) != (len(self.labels), self.experts):
            raise NeuroglotError(
                f"experts must be a boolean tensor ({len(self.labels)}, {self.experts}), not {experts.dtype} of "
                f"{tuple(experts.shape)}."
            )
        return experts.gather(1, self.labels.clamp_min(0)) & (self.labels >= 0)

    def check(self, model: "ModelShape") -> None:
        """Refuse another model than the one it was made for.

        Raises:
            NeuroglotError: as said.
        """
        if tuple(self.labels.shape) != (model.layers, model.neurons):
            raise NeuroglotError(
                f"The partition is for {' × '.join(map(str, self.labels.shape))} neurons, but {model.name} has "
                f"{model.layers} × {model.neurons}; make one for this model."
            )
        wrong = (self.widths != torch.tensor(model.widths)).nonzero().flatten().tolist()
        if wrong:
            raise NeuroglotError(
                f"The partition is for {int(self.widths[wrong[0]])} neurons in layer {wrong[0] + 1}, but {model.name} "
                f"has {model.widths[wrong[0]]} there; make one for this model."
            )
        fingerprint = self.about.get("fingerprint")
        if self.about.get("base") is None and fingerprint not in (None, model.fingerprint):
            raise NeuroglotError(
                f"The partition was made for {self.about.get('model', 'another model')}, whose weights are not those "
                f"of {model.name}; make one for this model, or use partition.of_variant() with a tuned variant."
            )

    def of_variant(self) -> "Partition":
        """The same experts for a tuned variant of its model (§4.4): the shape is still checked, the weights are not."""
        return Partition(self.labels, self.experts, {**self.about, "base": self.about.get("fingerprint", "")})

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, with the model's fingerprint."""
        about = {"experts": self.experts, **self.about}
        return save_tensors(path, KIND, VERSION, {"labels": self.labels}, about)

    @classmethod
    def load(cls, path: str | Path) -> "Partition":
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing, damaged or not a partition.
        """
        tensors, about = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            labels, experts = tensors["labels"], about.pop("experts")
            if type(experts) is not int or labels.is_floating_point() or not 1 <= experts <= labels.shape[-1]:
                raise ValueError(f"{experts!r} experts of labels {labels.dtype} {tuple(labels.shape)}")
            return cls(labels, experts, about)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partition):
            return NotImplemented
        return self.experts == other.experts and torch.equal(self.labels, other.labels)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = self.sizes
        each = f"{int(sizes.min())}" if sizes.min() == sizes.max() else f"{int(sizes.min())} to {int(sizes.max())}"
        return f"<{self.about.get('kind', 'labels')} partition: {len(self.labels)} × {self.experts} experts of {each}>"
