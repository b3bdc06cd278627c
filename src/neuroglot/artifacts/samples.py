"""What one pass over a parallel corpus leaves: one vector a sample, by language and meaning."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.widths import check_widths, given_widths, stated
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import load_json
from neuroglot.storage.sealed import sealed_json
from neuroglot.storage.tensors import whole

__all__ = ["Samples"]

KIND, VERSION = "samples", 1
VECTORS, STATES = "vectors.npy", "states.npy"
READ_AT_ONCE = 1 << 24  # bytes


@dataclass(frozen=True, eq=False)
class Samples:
    """One vector for each sample of a parallel corpus (Zeng et al. 2025, §3.1). Immutable.

    Sample *i* means the same in every language. Large vectors are memory-mapped: read them a layer or a language at
    a time, as everything in `neuroglot.alignment` does.

    Attributes:
        vectors: (K, n, L·N), unit norm: the mean of `hidden` over a sample's tokens, all layers in order.
        languages: K language tags.
        keys: n keys, one a meaning.
        layers: L.
        states: (K, n, L, width), the mean over tokens of the residual stream that leaves each layer, as it is (not
            normalised); None if it was not recorded.
        provenance: what they were made with; None if they came from vectors alone. Its `block` is 0: not packed.
        recording: the other statistics taken in the same pass, if any were.
        uneven: how many neurons each layer has, where layers differ; their slices are as long as the widest, with
            zeros beyond.
    """

    vectors: Float[Tensor, "languages samples width"]
    languages: tuple[str, ...]
    keys: tuple[str, ...]
    layers: int
    states: Float[Tensor, "languages samples layers model_width"] | None = None
    provenance: Provenance | None = None
    recording: Recording | None = None
    uneven: tuple[int, ...] | None = None

    @classmethod
    @takes_numbers
    def from_vectors(
        cls,
        vectors: Any,
        languages: Sequence[str] | None = None,
        *,
        layers: int,
        keys: Sequence[str] | None = None,
        states: Any = None,
        widths: Sequence[int] | None = None,
    ) -> "Samples":
        """Samples from someone else's activations.

        Args:
            vectors: (K, n, L·N), or one (n, L·N) a language as a list or a mapping from its tag; of any norm: they
                are divided by it.
            languages: K tags; needed unless `vectors` is a mapping.
            layers: L; the vectors are L slices of equal size, that of the widest layer.
            widths: how many neurons each layer has, where layers differ; the vectors are 0 beyond.
            keys: n names of the meanings; by default 0, 1, ….
            states: (K, n, L, width), for `alignment.ses` and `alignment.dominance`.

        Raises:
            NeuroglotError: the languages have unequal numbers of samples, shapes do not fit, or a vector is zero or
                not a number.
        """
        if isinstance(vectors, Mapping):
            languages = list(vectors) if languages is None else languages
            vectors = [vectors[tag] for tag in languages]
        if languages is None:
            raise NeuroglotError("Say which languages the vectors are of: languages=['en', …].")
        tags = tuple(language_tag(tag) for tag in languages)
        rows = [torch.as_tensor(each) for each in vectors]
        if len(rows) != len(tags) or len(set(tags)) < len(tags):
            raise NeuroglotError(f"There are vectors of {len(rows)} languages, but named are {', '.join(languages)}.")
        if any(each.ndim != 2 for each in rows) or len({each.shape[1] for each in rows}) > 1:
            raise NeuroglotError("vectors must be (languages, samples, layers · neurons).")
        counts = {tag: len(each) for tag, each in zip(tags, rows, strict=True)}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{tag} {count}" for tag, count in counts.items())
            raise NeuroglotError(
                f"Every language needs the same samples, but their numbers are unequal ({said}); leave out those that "
                "some language lacks."
            )
        if layers < 1 or rows[0].shape[1] % layers:
            raise NeuroglotError(f"Vectors of {rows[0].shape[1]} numbers are not {layers} equal layers.")
        stacked = torch.stack(rows)
        if not stacked.is_floating_point() or stacked.dtype.itemsize < 4:
            stacked = stacked.to(torch.float32)
        names = tuple(keys) if keys is not None else tuple(str(i) for i in range(stacked.shape[1]))
        if len(names) != stacked.shape[1] or len(set(names)) < len(names):
            raise NeuroglotError(f"{stacked.shape[1]} samples need as many different keys, not {len(names)}.")
        made = cls(unit(stacked, tags, names), tags, names, layers, None if states is None else torch.as_tensor(states))
        if made.states is not None and tuple(made.states.shape[:3]) != (len(tags), len(names), layers):
            raise NeuroglotError(
                f"states must be ({len(tags)}, {len(names)}, {layers}, width), not {tuple(made.states.shape)}."
            )
        return replace(made, uneven=given_widths(widths, [made._first()]))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return (
            f"<{len(self.keys)} samples in {len(self.languages)} languages ({', '.join(self.languages)}), "
            f"{self.layers} × {self.neurons} neurons>"
        )

    @property
    def neurons(self) -> int:
        """How many neurons a layer, N."""
        return self.vectors.shape[2] // self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""
        return self.uneven or (self.neurons,) * self.layers

    @takes_numbers
    def layer(self, layer: int) -> Float[Tensor, "languages samples neurons"]:
        """The slice of a layer (from 0), a view, as it is in the whole vectors: not of unit norm.

        Raises:
            NeuroglotError: there is no such layer.
        """
        if not 0 <= layer < self.layers:
            raise NeuroglotError(f"There is no layer {layer}; layers are 0 to {self.layers - 1}.")
        return self.vectors[..., layer * self.neurons : (layer + 1) * self.neurons]

    def frame(self) -> pd.DataFrame:
        """A row a sample and layer: language, key, layer (from 1), share (of the vector's squared length, 0 to 1)."""
        count, many = len(self.languages), len(self)
        shares = torch.stack([self.layer(layer).double().square().sum(-1) for layer in range(self.layers)], dim=-1)
        return pd.DataFrame(
            {
                "language": np.repeat([*self.languages], many * self.layers),
                "key": np.tile(np.repeat([*self.keys], self.layers), count),
                "layer": np.tile(np.arange(1, self.layers + 1), count * many),
                "share": shares.flatten().numpy(),
            }
        )

    def select(self, languages: Sequence[str]) -> "Samples":
        """The samples of these languages only, in this order.

        Raises:
            NeuroglotError: one is not there.
        """
        tags = tuple(language_tag(tag) for tag in languages)
        unknown = [tag for tag in tags if tag not in self.languages]
        if unknown:
            raise NeuroglotError(f"These samples have no {unknown[0]}; they have {', '.join(self.languages)}.")
        index = torch.tensor([self.languages.index(tag) for tag in tags])
        return replace(
            self,
            vectors=self.vectors[index],
            languages=tags,
            states=None if self.states is None else self.states[index],
            recording=None if self.recording is None else self.recording.select(tags),
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write a directory: `samples.json`, `vectors.npy`, and `states.npy`, `recording.safetensors` if there are."""
        path = Path(path)
        with atomic_path(path, replaces="samples.json") as draft:
            draft.mkdir()
            np.save(draft / "vectors.npy", self.vectors.numpy())
            if self.states is not None:
                np.save(draft / "states.npy", self.states.numpy())
            self._write_header(draft, {})
        return path

    def _write_header(self, directory: Path, settings: Mapping[str, Any]) -> None:
        if self.recording is not None:
            self.recording.save(directory / "recording.safetensors")
        about = {
            "kind": KIND,
            "version": VERSION,
            "languages": self.languages,
            "keys": self.keys,
            "layers": self.layers,
            **stated(self.widths),
            "provenance": self.provenance.model_dump() if self.provenance else None,
            "settings": dict(settings),
            "sha256": {file.name: _digest(file) for file in sorted(directory.glob("*.npy"))},
        }
        (directory / "samples.json").write_text(sealed_json(about), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, *, check: bool = True) -> "Samples":
        """Open what `save` wrote. The vectors stay on the disk and are read when they are used.

        Args:
            path: the directory.
            check: compare the checksums, which reads the files once.

        Raises:
            NeuroglotError: it is missing, damaged, or of a newer format.
        """
        path = Path(path)
        about = read_header(path)
        try:
            if not {VECTORS} <= set(about["sha256"]) <= {VECTORS, STATES}:
                raise KeyError("its arrays")
            if check and any(_digest(path / name) != digest for name, digest in about["sha256"].items()):
                raise NeuroglotError(f"{path} is damaged: its checksum does not match; record the samples again.")
            # copy on write, since torch has no read-only tensors
            arrays = {name: torch.from_numpy(np.load(path / name, mmap_mode="c")) for name in about["sha256"]}
            recorded = path / "recording.safetensors"
            with whole(path, KIND):
                loaded = cls(
                    arrays[VECTORS],
                    tuple(language_tag(tag) for tag in about["languages"]),
                    tuple(map(str, about["keys"])),
                    int(about["layers"]),
                    arrays.get(STATES),
                    Provenance(**about["provenance"]) if about["provenance"] else None,
                    Recording.load(recorded) if recorded.is_file() else None,
                    tuple(about["widths"]) if about.get("widths") is not None else None,
                )
                loaded._check()
                return loaded
        except NeuroglotError:
            raise
        except (OSError, KeyError, TypeError, EOFError, ValueError, AttributeError) as error:
            raise NeuroglotError(f"{path} is damaged ({error}); record the samples again.") from error

    def _check(self) -> None:
        """Refuse arrays whose shapes are not those that the rest says.

        Raises:
            ValueError: as said.
        """
        shape = (len(self.languages), len(self.keys))
        if self.vectors.dtype not in (torch.float32, torch.float64) or tuple(self.vectors.shape[:2]) != shape:
            raise ValueError(f"vectors of {self.vectors.dtype} {tuple(self.vectors.shape)} for {shape}")
        if not 1 <= self.layers <= self.vectors.shape[2] or self.vectors.shape[2] % self.layers or 0 in shape:
            raise ValueError(f"{self.layers} layers in vectors of {self.vectors.shape[2]} numbers")
        if self.states is not None and tuple(self.states.shape[:3]) != (*shape, self.layers):
            raise ValueError(f"states of {tuple(self.states.shape)}")
        if self.uneven is not None:
            check_widths(self.uneven, self._first())

    def _first(self) -> Float[Tensor, "layers neurons languages"]:
        """Of each language the first sample."""
        first: Tensor = self.vectors[:, 0]
        by_layer: Tensor = first.unflatten(-1, (self.layers, -1))
        return by_layer.movedim(0, -1)


def read_header(path: Path) -> dict[str, Any]:
    """What `samples.json` says.

    Raises:
        NeuroglotError: it is missing, damaged, or of a newer format.
    """
    try:
        about = load_json(path / "samples.json")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NeuroglotError(f"{path} holds no samples; make them with record_samples.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise NeuroglotError(f"{path / 'samples.json'} is damaged; record the samples again.") from error
    version = about.get("version", 0)
    if about.get("kind") != KIND or not isinstance(version, int) or version > VERSION:
        raise NeuroglotError(f"{path} holds no samples, or of a newer Neuroglot.")
    return dict(about)


def unit(
    vectors: Float[Tensor, "languages samples width"], languages: Sequence[str], keys: Sequence[str]
) -> Float[Tensor, "languages samples width"]:
    """The vectors divided by their norms.

    Raises:
        NeuroglotError: one is zero or holds what is not a number; it is named.
    """
    norms = norms_of(vectors)
    check_norms(norms, languages, keys)
    return vectors / norms.to(vectors.dtype)


def norms_of(vectors: Float[Tensor, "*samples width"]) -> Float64[Tensor, "*samples 1"]:
    """Their lengths."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=torch.float64)
    return norms


def check_norms(norms: Float64[Tensor, "languages samples 1"], languages: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse a vector without a direction.

    Raises:
        NeuroglotError: one is zero or holds what is not a number; it is named.
    """
    bad = ~(torch.isfinite(norms) & (norms > 0)).squeeze(-1)
    if bool(bad.any()):
        language, sample = bad.nonzero()[0].tolist()
        raise NeuroglotError(
            f"The activations of sample {keys[sample]} in {languages[language]} are all zero or not numbers (NaN or "
            "infinite), so they have no direction; load the model in float32 or bfloat16, or leave the sample out."
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()
