"""Partitions: every neuron of a layer in one of E experts."""

import hashlib
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn.functional import normalize

from neuroglot.errors import NeuroglotError
from neuroglot.experts.kmeans import balanced_kmeans
from neuroglot.files import load_tensors, save_tensors
from neuroglot.model import Model

__all__ = ["Kind", "Partition", "partition", "reorder"]

KIND, VERSION = "partition", 1
Kind = Literal["parameter", "random", "contiguous", "labels"]


class Partition:
    """Which expert each neuron of one model belongs to.

    Attributes:
        labels: (L, N) int64, from 0 to E - 1.
        experts: how many experts a layer, E.
        about: how it was made: kind, settings, the model's name and fingerprint (JSON).

    Raises:
        NeuroglotError: labels are out of range, or an expert has no neuron.
    """

    def __init__(self, labels: Int64[Tensor, "layers neurons"], experts: int, about: dict[str, Any] | None = None):
        self.labels = torch.as_tensor(labels).to("cpu", torch.int64)
        self.experts = experts
        self.about = dict(about or {})
        if self.labels.ndim != 2 or int(self.labels.min()) < 0 or int(self.labels.max()) >= experts:
            raise NeuroglotError(
                f"labels must be (layers, neurons) integers from 0 to {experts - 1}, not {tuple(self.labels.shape)} "
                f"from {int(self.labels.min())} to {int(self.labels.max())}."
            )
        empty = (self.sizes == 0).nonzero().tolist()
        if empty:
            raise NeuroglotError(
                f"Expert {empty[0][1]} of layer {empty[0][0] + 1} has no neuron; give every expert one."
            )

    @property
    def sizes(self) -> Int64[Tensor, "layers experts"]:
        """How many neurons each expert has."""
        return torch.stack([row.bincount(minlength=self.experts) for row in self.labels])

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
        return experts.gather(1, self.labels)

    def check(self, model: Model) -> None:
        """Refuse another model than the one it was made for.

        Raises:
            NeuroglotError: as said.
        """
        if tuple(self.labels.shape) != (model.layers, model.neurons):
            raise NeuroglotError(
                f"The partition is for {' × '.join(map(str, self.labels.shape))} neurons, but {model.name} has "
                f"{model.layers} × {model.neurons}; make one for this model."
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
        return cls(tensors["labels"], about.pop("experts"), about)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Partition):
            return NotImplemented
        return self.experts == other.experts and torch.equal(self.labels, other.labels)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = self.sizes
        each = f"{int(sizes.min())}" if sizes.min() == sizes.max() else f"{int(sizes.min())} to {int(sizes.max())}"
        return f"<{self.about.get('kind', 'labels')} partition: {len(self.labels)} × {self.experts} experts of {each}>"


@torch.no_grad()
def partition(
    model: Model,
    experts: int = 256,
    *,
    kind: Kind = "parameter",
    seed: int = 0,
    normalise: bool = True,
    labels: Int64[Tensor, "layers neurons"] | None = None,
    equal: bool = True,
) -> Partition:
    """Split every layer's neurons into experts (Liu et al. 2024, §3, "Expert Construction").

    Args:
        model: whose neurons.
        experts: how many a layer, E.
        kind: `parameter`, the paper's: balanced k-means on the up-projection's rows (gated) or fc1's (plain);
            `random`: a seeded shuffle; `contiguous`: neurons in their order; `labels`: your own.
        seed: of `parameter` and `random`.
        normalise: give rows unit length first, as MoEfication does (`parameter`).
        labels: (L, N) integers from 0 to E - 1 (`labels`).
        equal: with `labels`, refuse sizes that differ by more than one within a layer.

    Raises:
        NeuroglotError: there are more experts than neurons, or the labels do not fit.
    """
    layers, width = model.layers, model.neurons
    if not 1 <= experts <= width:
        raise NeuroglotError(f"{width} neurons cannot be split into {experts} experts; ask for 1 to {width}.")
    if (labels is None) == (kind == "labels"):
        raise NeuroglotError('labels are given with kind="labels", and with that kind only.')
    about = {"kind": kind, "model": model.name, "fingerprint": model.fingerprint}
    if labels is not None:
        if tuple(labels.shape) != (layers, width):
            raise NeuroglotError(f"labels must be ({layers}, {width}), one for each neuron, not {tuple(labels.shape)}.")
        own = Partition(labels, experts, about)
        uneven = (own.sizes.amax(1) - own.sizes.amin(1) > 1).nonzero().flatten().tolist()
        if equal and uneven:
            sizes = own.sizes[uneven[0]]
            raise NeuroglotError(
                f"The experts of layer {uneven[0] + 1} have from {int(sizes.min())} to {int(sizes.max())} neurons; "
                "make them equal, or say equal=False."
            )
        return own
    even = torch.arange(width) * experts // width
    if kind == "contiguous":
        return Partition(even.expand(layers, -1).clone(), experts, about)
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        shuffled = [even[torch.randperm(width, generator=generator)] for _ in range(layers)]
        return Partition(torch.stack(shuffled), experts, {**about, "seed": seed})
    rows = []
    for ffn in model.ffns:
        weight = ffn.up_rows
        if weight.device.type == "meta" or not weight.is_floating_point():
            raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, or use another kind.")
        points = normalize(weight.float(), dim=1) if normalise else weight.float()
        rows.append(balanced_kmeans(points, experts, seed).cpu())
    return Partition(torch.stack(rows), experts, {**about, "seed": seed, "normalise": normalise})


@torch.no_grad()
def reorder(model: Model, split: Partition) -> Partition:
    """Put each layer's neurons in the order of their experts, in place; the logits stay as they were, to rounding.

    Returns:
        The same experts in the reordered model: runs of neighbours.

    Raises:
        NeuroglotError: the partition is of another model.
    """
    split.check(model)
    for ffn, labels in zip(model.ffns, split.labels, strict=True):
        ffn.take(labels.argsort(stable=True))
    model.__dict__.pop("fingerprint", None)  # the weights lie in another order now
    about = {**split.about, "fingerprint": model.fingerprint}
    return Partition(split.labels.sort(dim=1).values, split.experts, about)
