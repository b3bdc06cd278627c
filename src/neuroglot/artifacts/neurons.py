"""Sets of neurons by language: their algebra and their files."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

__all__ = ["NeuronSet"]

KIND, VERSION = "neurons", 1
PUBLISHED = ".neuron.pth"
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
)


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

    def check_languages(self, languages: Sequence[str]) -> None:
        """Refuse languages that have no set here.

        Raises:
            NeuroglotError: as said.
        """
        for tag in map(language_tag, languages):
            if tag not in self.languages:
                raise NeuroglotError(f"These neurons have no {tag}; they have {', '.join(self.languages)}.")

    def __getitem__(self, language: str) -> Bool[Tensor, "layers neurons"]:
        self.check_languages([language])
        tag = language_tag(language)
        return self.mask[self.languages.index(tag)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NeuronSet):
            return NotImplemented
        return self.languages == other.languages and torch.equal(self.mask, other.mask)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{tag} {count:,}" for tag, count in self.sizes().items())
        return f"<neurons of {self.shape[0]} × {self.shape[1]}: {sizes}>"

    def sizes(self) -> dict[str, int]:
        """How many neurons each language has."""
        return dict(zip(self.languages, self.mask.sum((1, 2)).tolist(), strict=True))

    def counts(self) -> pd.DataFrame:
        """How many neurons each language has in each layer: layers from 1, as the papers count them, by language."""
        table = pd.DataFrame(self.mask.sum(2).T.numpy(), columns=list(self.languages))
        table.index = pd.RangeIndex(1, len(table) + 1, name="layer")
        return table

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
        cls, path: str | Path, *, languages: Sequence[str] | None = None, shape: tuple[int, int] | None = None
    ) -> "NeuronSet":
        """Read a `.safetensors` or a published `.neuron.pth`.

        Args:
            path: the file.
            languages: the languages in the file's order (`.neuron.pth`), or those wanted (`.safetensors`).
            shape: layers and neurons a layer, (L, N): needed for `.neuron.pth`, checked otherwise.

        Raises:
            NeuroglotError: the file is missing or damaged, or its indices do not fit the languages or the shape.
        """
        path = Path(path)
        if path.name.endswith(".pth"):
            return cls._load_published(path, languages, shape)
        tensors, about = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            neurons = cls(tensors["mask"], about.pop("languages"), about)
        if shape is not None and tuple(shape) != neurons.shape:
            raise NeuroglotError(f"{path} is for {neurons.shape} layers and neurons, not {tuple(shape)}.")
        return neurons if languages is None else neurons.select(languages)

    @classmethod
    def _load_published(cls, path: Path, languages: Sequence[str] | None, shape: tuple[int, int] | None) -> "NeuronSet":
        if languages is None or shape is None:
            raise NeuroglotError(
                f"{path} holds neither languages nor shape; give them: languages=['en', …], shape=(layers, neurons)."
            )
        if not path.is_file():
            raise NeuroglotError(f"{path} does not exist; give the path of a {PUBLISHED} file.")
        try:
            indices = torch.load(path, weights_only=True, map_location="cpu")
        except UNREADABLE as error:
            raise NeuroglotError(f"{path} is damaged or holds more than tensors; download it again.") from error
        if not isinstance(indices, list) or len(indices) != len(languages):
            count = len(indices) if isinstance(indices, list) else "no list of"
            raise NeuroglotError(f"{path} holds {count} languages, but {len(languages)} were named.")
        layers, width = shape
        mask = torch.zeros(len(languages), layers, width, dtype=torch.bool)
        for tag, rows, of_language in zip(languages, indices, mask, strict=True):
            if not isinstance(rows, list | tuple) or len(rows) != layers:
                count = len(rows) if isinstance(rows, list | tuple) else "no list of"
                raise NeuroglotError(f"{path} has {count} layers for {tag}, but the shape says {layers}.")
            for layer, (row, chosen) in enumerate(zip(rows, of_language, strict=True), start=1):
                with whole(path, KIND):
                    index = torch.as_tensor(row)
                    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
                        raise ValueError(f"layer {layer} of {tag} names neurons by {index.dtype}")
                    index = index.flatten().to(torch.int64)
                if len(index) and not 0 <= int(index.min()) <= int(index.max()) < width:
                    beyond = int(index.max()) if int(index.max()) >= width else int(index.min())
                    raise NeuroglotError(
                        f"{path} names neuron {beyond} in layer {layer} of {tag}, but the shape says there "
                        f"are {width}; give the right shape."
                    )
                chosen[index] = True
        return cls(mask, languages, {"method": "published", "file": path.name})
