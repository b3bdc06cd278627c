"""Sets of neurons by language: their algebra and their files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from neuroglot.artifacts.origin import Numbered, Origin, check_origin
from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.recording import HEADS, RESIDUAL, Recording
from neuroglot.artifacts.widths import check_widths, exists, stated
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import is_language, language_tag
from neuroglot.stats import entropy
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.given import check_file
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

__all__ = ["NeuronSet", "checked_set"]

KIND, VERSION = "neurons", 1
PUBLISHED = ".neuron.pth"


def checked_set(given: Any) -> "NeuronSet":
    """What is given, if it is a set by language.

    Raises:
        NeuroglotError: it is another thing, such as one language's mask.
    """
    if not isinstance(given, NeuronSet):
        raise NeuroglotError(
            f"Neurons by language are a NeuronSet, and not a {type(given).__name__}; ng.NeuronSet(mask, languages) "
            "makes one of a (languages, layers, neurons) mask."
        )
    return given


class NeuronSet:
    """For each language, the neurons of each layer that are said to be that language's.

    `neurons["fr"]` is a boolean tensor (L, N). Sets are values: nothing changes one once it is made.

    Attributes:
        mask: (K, L, N) bool, in the order of `languages`.
        languages: K language tags.
        about: how it was made: the method, its settings, the model's fingerprint … (JSON).

    Raises:
        NeuroglotError: the mask is not (K, L, N) bool for K different languages.
    """

    def __init__(
        self,
        mask: Bool[Tensor, "languages layers neurons"],
        languages: Sequence[str],
        about: Mapping[str, Any] | None = None,
    ):
        self.mask = torch.as_tensor(mask)
        self.languages = tuple(language_tag(tag) for tag in languages)
        self.about = dict(about or {})
        if self.mask.dtype != torch.bool or self.mask.ndim != 3:
            raise NeuroglotError(
                f"A NeuronSet needs a boolean (languages, layers, neurons) mask, not {self.mask.dtype} of shape "
                f"{tuple(self.mask.shape)}."
            )
        if len(set(self.languages)) != self.mask.shape[0]:
            raise NeuroglotError(f"The mask has {self.mask.shape[0]} languages, but named are {', '.join(languages)}.")

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and neurons a layer, (L, N)."""
        return self.mask.shape[1], self.mask.shape[2]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""
        return tuple(self.about.get("widths") or (self.shape[1],) * self.shape[0])

    @property
    def total(self) -> int:
        """How many neurons there are, of which these are some."""
        return sum(self.widths)

    @property
    def units(self) -> str:
        """What they are, as sentences and axes name them: neurons, or attention heads."""
        return str(self.about.get("units", "neurons"))

    @property
    def exists(self) -> Bool[Tensor, "layers neurons"]:
        """Which entries of a mask (L, N) are neurons: all, unless layers differ in width."""
        return exists(self.widths)

    def of_widths(self, widths: Sequence[int]) -> "NeuronSet":
        """The same sets, as neurons of layers of these widths.

        Raises:
            NeuroglotError: there are other layers or another number of neurons, or a set holds what is no neuron.
        """
        if self.shape != (len(widths), max(widths)):
            raise NeuroglotError(
                f"These {self.units} are of {self.shape[0]} × {self.shape[1]}, not of {len(widths)} layers of at most "
                f"{max(widths)}; give those of the same model."
            )
        beyond = (self.mask.any(0) & ~exists(widths)).nonzero().tolist()
        if beyond:
            layer, neuron = beyond[0]
            raise NeuroglotError(
                f"These sets hold {self.units.removesuffix('s')} {neuron} of layer {layer + 1}, which has "
                f"{widths[layer]} {self.units}; give those of the same model."
            )
        about = {name: value for name, value in self.about.items() if name != "widths"}
        return NeuronSet(self.mask, self.languages, about | stated(widths))

    def of_model(self, model: Numbered | Recording, *, site: str = "activation") -> "NeuronSet":
        """The same sets, as neurons of this model, or of the one that was recorded.

        Sets may be moved to a tuned variant of their model; that they were found in other weights is said.

        Args:
            model: in which they are meant.
            site: `heads`, if the sets are of attention heads.

        Raises:
            NeuroglotError: it has other layers or widths, or numbers its neurons by other experts.
        """
        if site == "heads" and not isinstance(model, Recording):
            found = self.of_widths([attention.heads for attention in model.attentions])
            check_origin(self.about, Origin.of(model), "heads")
        else:
            found = self.of_widths(model.widths)
            check_origin(self.about, Origin.of(model))
        return found

    def in_experts(self, partition: Partition) -> "NeuronSet":
        """The sets of a dense model, as they are numbered in the mixture that `moefy` wrote by this partition.

        Raises:
            NeuroglotError: the partition is of a model of another shape, or its experts differ in width.
        """
        layers, neurons = partition.labels.shape
        if self.shape != (layers, neurons) or int(partition.sizes.min()) != int(partition.sizes.max()):
            raise NeuroglotError(
                f"These neurons are of {self.shape[0]} × {self.shape[1]}, and the partition is {partition!r}; give the "
                "one that the mixture was written by, whose experts have one width."
            )
        made_for = Origin(partition.about.get("model", "its model"), partition.about.get("fingerprint"), None)
        check_origin(self.about, made_for)
        experts = [[partition.experts, neurons // partition.experts]] * layers
        about = {**self.about, "fingerprint": None, "experts": experts, "partition": partition.digest}
        return NeuronSet(self.mask.gather(2, partition.order.expand_as(self.mask)), self.languages, about)

    def check_languages(self, languages: Sequence[str]) -> None:
        """Refuse languages that have no set here.

        Raises:
            NeuroglotError: as said.
        """
        for tag in map(language_tag, languages):
            if tag not in self.languages:
                raise NeuroglotError(f"These {self.units} have no {tag}; they have {', '.join(self.languages)}.")

    def __getitem__(self, language: str) -> Bool[Tensor, "layers neurons"]:
        self.check_languages([language])
        tag = language_tag(language)
        return self.mask[self.languages.index(tag)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.languages)

    def __contains__(self, language: object) -> bool:
        return isinstance(language, str) and is_language(language) and language_tag(language) in self.languages

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self.languages == other.languages and torch.equal(self.mask, other.mask)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{tag} {count:,}" for tag, count in self.sizes().items())
        return f"<{self.units} of {self.shape[0]} × {self.shape[1]}: {sizes}>"

    def sizes(self) -> dict[str, int]:
        """How many neurons each language has."""
        return dict(zip(self.languages, self.mask.sum((1, 2)).tolist(), strict=True))

    def counts(self) -> pd.DataFrame:
        """How many neurons each language has in each layer: layers from 1, as the papers count them, by language."""
        table = pd.DataFrame(self.mask.sum(2).T.numpy(), columns=list(self.languages))
        table.index = pd.RangeIndex(1, len(table) + 1, name="layer")
        return table

    def frame(self, recording: Recording | None = None) -> pd.DataFrame:
        """A row for every neuron of every language.

        Args:
            recording: of the same model, with the languages of these sets: adds what it says of each neuron.

        Returns:
            Columns language, layer (from 1, as the papers count), neuron (from 0, as in the tensors), languages (how
            many have it). With a recording also probability (in the language of the row), entropy (nats, of its
            probabilities normalised over the recording's languages) and the means of its other statistics.

        Raises:
            NeuroglotError: the recording has other layers or neurons, or lacks a language.
        """
        language, layer, neuron = self.mask.nonzero(as_tuple=True)
        table = pd.DataFrame(
            {
                "language": [self.languages[k] for k in language.tolist()],
                "layer": (layer + 1).numpy(),
                "neuron": neuron.numpy(),
                "languages": self.mask.sum(0)[layer, neuron].numpy(),
            }
        )
        if recording is None:
            return table
        self.of_model(recording)
        own = recording.select(self.languages)
        table["probability"] = own.probabilities[layer, neuron, language].numpy()
        table["entropy"] = entropy(recording.probabilities)[layer, neuron].numpy()
        for name, values in own.sums.items():
            if name not in ("active", RESIDUAL) and not name.startswith(HEADS) and values.shape == own.active.shape:
                table[name] = own.mean(name)[layer, neuron, language].numpy()
        return table

    def alone(self) -> "NeuronSet":
        """The neurons that are one language's alone: of each set, those that no other language here has."""
        return NeuronSet(self.mask & (self.mask.sum(0) == 1), self.languages, {**self.about, "alone": True})

    def select(self, languages: Sequence[str]) -> "NeuronSet":
        """The sets of these languages only, in this order."""
        return NeuronSet(torch.stack([self[tag] for tag in languages]), languages, self.about)

    def union(self, *languages: str) -> Bool[Tensor, "layers neurons"]:
        """The neurons of any of the languages (of all languages, if none is named)."""
        return torch.stack([self[tag] for tag in languages or self.languages]).any(0)

    def intersection(self, *languages: str) -> Bool[Tensor, "layers neurons"]:
        """The neurons that every one of the languages has (all languages, if none is named)."""
        return torch.stack([self[tag] for tag in languages or self.languages]).all(0)

    def overlap(self) -> pd.DataFrame:
        """Jaccard index of every pair of languages: shared neurons over neurons of either; NaN where both are empty."""
        flat = self.mask.flatten(1).to(torch.float64)  # exact, and a product counts the shared neurons of all pairs
        shared = flat @ flat.T
        sizes = shared.diagonal()
        jaccard = shared / (sizes[:, None] + sizes[None, :] - shared)
        return pd.DataFrame(jaccard.numpy(), index=list(self.languages), columns=list(self.languages))

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write `.safetensors` (languages, shape and `about` inside), or `.neuron.pth`, as the LAPE authors publish.

        A `.neuron.pth` holds the indices only: languages and shape must be told again when it is loaded.
        """
        path = Path(path)
        if path.name.endswith(PUBLISHED):
            indices = [[row.nonzero().flatten() for row in layers] for layers in self.mask]
            with atomic_path(path) as draft:
                torch.save(indices, draft)
            return path
        if path.suffix != ".safetensors":
            raise NeuroglotError(f"{path.name} should end in .safetensors or {PUBLISHED}, so that its format is known.")
        return save_tensors(path, KIND, VERSION, {"mask": self.mask}, {"languages": self.languages, **self.about})

    @classmethod
    def load(
        cls, path: str | Path, *, languages: Iterable[str] | None = None, shape: tuple[int, int] | None = None
    ) -> "NeuronSet":
        """Read a `.safetensors`, or a file as the LAPE authors publish them. Its bytes say which it is, not its name.

        A published file is what `torch.save` writes: for each language, for each layer, the integer indices of its
        neurons. It holds neither the languages nor the shape.

        Args:
            path: the file.
            languages: the languages in the file's order (published), or those wanted (`.safetensors`).
            shape: layers and neurons a layer, (L, N): needed for a published file, checked otherwise.

        Raises:
            NeuroglotError: the file is missing or damaged, is of neither kind, holds anything but lists of indices, or
                does not fit the languages or the shape.
        """
        path = Path(path)
        if isinstance(languages, str):
            raise NeuroglotError(f"languages is a list of tags, not {languages!r}; put it into a list.")
        languages = None if languages is None else list(languages)
        if _is_pickled(path):
            return cls._load_published(path, languages, shape)
        tensors, about = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            neurons = cls(tensors["mask"], about.pop("languages"), about)
            if about.get("widths") is not None:
                check_widths(about["widths"], neurons.mask.movedim(0, -1))
        if shape is not None and tuple(shape) != neurons.shape:
            raise NeuroglotError(f"{path} is for {neurons.shape} layers and neurons, not {tuple(shape)}.")
        return neurons if languages is None else neurons.select(languages)

    @classmethod
    def _load_published(cls, path: Path, languages: Sequence[str] | None, shape: tuple[int, int] | None) -> "NeuronSet":
        indices = _unpickled(path)
        if languages is None or shape is None:
            raise NeuroglotError(
                f"{path} holds {len(indices)} sets and says neither languages nor shape; give them, in the file's "
                "order: languages=['en', …], shape=(layers, neurons); or neuroglot identify RUN --import FILE "
                "--languages en,…."
            )
        if len(indices) != len(languages):
            raise NeuroglotError(f"{path} holds {len(indices)} languages, but {len(languages)} were named.")
        layers, width = shape
        mask = torch.zeros(len(languages), layers, width, dtype=torch.bool)
        for tag, rows, of_language in zip(languages, indices, mask, strict=True):
            if not isinstance(rows, list | tuple):
                raise NeuroglotError(f"{path} has no list of layers for {tag} but {type(rows).__name__}.")
            if len(rows) != layers:
                raise NeuroglotError(f"{path} has {len(rows)} layers for {tag}, but the shape says {layers}.")
            for layer, (row, chosen) in enumerate(zip(rows, of_language, strict=True), start=1):
                index = _indices(row, f"{path}, layer {layer} of {tag}")
                if len(index) and not 0 <= int(index.min()) <= int(index.max()) < width:
                    wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
                    raise NeuroglotError(
                        f"{path} names neuron {wrong} in layer {layer} of {tag}, but the shape says there are {width}; "
                        "give the right shape."
                    )
                chosen[index] = True
        return cls(mask, languages, {"method": "published", "file": path.name})


def _is_pickled(path: Path) -> bool:
    """Whether a file is what `torch.save` writes: a ZIP archive, or a pickle in earlier versions.

    Raises:
        NeuroglotError: there is no such file, or it cannot be read.
    """
    check_file(path, "give the path of a file of neurons")
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError as error:
        raise NeuroglotError(f"{path} cannot be read: {error.strerror or error}.") from error
    header = begin[8:9] == b"{"  # of safetensors, after its length, which may be any bytes
    return not header and (begin[:4] == b"PK\x03\x04" or begin[:1] == b"\x80")


def _unpickled(path: Path) -> list[Any]:
    """The outer list of a published file; nothing in it is run."""
    try:
        with path.open("rb") as file:  # of a path, torch would go by its name
            found = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # someone else's bytes: the unpickler raises whatever it meets
        raise NeuroglotError(f"{path} is damaged or holds more than tensors; download it again.") from error
    if not isinstance(found, list | tuple):
        raise NeuroglotError(
            f"{path} holds no list of languages but {type(found).__name__}; a file of neurons is, for each language, "
            "for each layer, a list of indices."
        )
    return list(found)


def _indices(row: Any, where: str) -> Int64[Tensor, " chosen"]:
    """A layer's indices: whole numbers in one row. Shares, masks and scores are not taken for them.

    Raises:
        NeuroglotError: as said.
    """
    if isinstance(row, list | tuple) and all(isinstance(value, int) and not isinstance(value, bool) for value in row):
        with suppress(ValueError, RuntimeError, OverflowError):  # beyond 64 bits
            return torch.tensor(row, dtype=torch.int64)
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if isinstance(row, Tensor) and (row.dtype in whole or not row.numel()) and row.ndim <= 1 and not row.is_sparse:
        return row.reshape(-1).to(torch.int64)
    kind = f"{row.dtype} of shape {tuple(row.shape)}" if isinstance(row, Tensor) else type(row).__name__
    raise NeuroglotError(f"{where}: indices of neurons are a list of whole numbers, not {kind}.")
