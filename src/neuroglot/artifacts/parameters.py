"""Sets of single parameters by language, their file, and what the model does without them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ParameterSet"]

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

    def frame(self) -> "pd.DataFrame":
        """A row for every parameter of every language.

        Returns:
            Columns language, parameter (the name of the weight), place (in the flattened weight, from 0), languages
            (how many have it).
        """
        import pandas as pd

        rows = [
            pd.DataFrame({"language": tag, "parameter": name, "place": index.numpy()})
            for tag, places in self.places.items()
            for name, index in places.items()
        ]
        empty = pd.DataFrame({"language": [], "parameter": [], "place": []}).astype({"place": "int64"})
        table = pd.concat(rows or [empty], ignore_index=True)
        return table.assign(languages=table.groupby(["parameter", "place"])["language"].transform("size"))

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
        with whole(path, KIND):
            places: dict[str, dict[str, Tensor]] = {tag: {} for tag in about.pop("languages")}
            for key, index in tensors.items():
                tag, _, name = key.partition(" ")
                ascending = index.ndim == 1 and not index.is_floating_point() and bool((index.diff() > 0).all())
                if not name or not ascending or bool((index[:1] < 0).any()):
                    raise ValueError(f"the places in {name or key} are not ascending numbers from 0")
                places[tag][name] = index
            return cls(places, about)
