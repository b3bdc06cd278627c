"""The Alignment tab: the similarity map, from all samples down to a pair of sentences, and the scores by layer."""

from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from neuroglot.alignment import scores, similarity
from neuroglot.alignment.similarity import normalised
from neuroglot.artifacts.samples import Samples
from neuroglot.errors import NeuroglotError
from neuroglot.explorer.run_view import RunView, drawn
from neuroglot.figures.screen import Plot, curves, heatmap, pair_plot, plain
from neuroglot.languages.tags import named
from neuroglot.storage.tables import load_table

__all__ = ["Alignment"]


class Alignment:
    """What can be shown of a run's samples.

    Attributes:
        samples: of a parallel corpus.
    """

    def __init__(self, run_view: RunView):
        if run_view.samples is None:
            raise NeuroglotError("The run has no samples.")
        self.run_view = run_view
        self.samples: Samples = run_view.samples

    @property
    def layers(self) -> list[str]:
        """`whole vectors`, then the layers from 1."""
        return ["whole vectors", *(f"layer {i + 1}" for i in range(self.samples.layers))]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The scores by layer, as the report wrote them or measured now."""
        path = self.run_view.run.path / "tables" / "alignment-layers.csv"
        made_from = self.run_view.run.samples_path / "samples.json"
        if path.is_file() and path.stat().st_mtime >= made_from.stat().st_mtime:  # else of samples that were before
            try:
                return load_table(path, index_col="layer")
            except NeuroglotError:
                pass  # damaged: measured again
        return scores.by_layer(self.samples, draws=200)

    @property
    def best(self) -> int:
        """The place in `layers` of the one whose SADS is highest."""
        return 1 + int(self.table["sads"].to_numpy().argmax())

    @lru_cache(maxsize=8)  # noqa: B019 (one an app)
    def similarities(self, layer: str) -> Float[np.ndarray, "languages samples languages samples"]:
        """The similarity map, float32."""
        place = self.layers.index(layer)
        values = similarity.similarity_map(self.samples, None if place == 0 else place - 1)
        size, count = len(self.samples.languages), len(self.samples)
        shaped: np.ndarray = values.to(torch.float32).numpy().reshape(size, count, size, count)
        return shaped

    def overview(self, layer: str) -> Plot:
        """For each pair of languages, by how much one meaning is more alike than two; the whole map as a table."""
        values = self.similarities(layer)
        count = values.shape[1]
        same = np.einsum("aibi->ab", values) / count
        every = values.sum((1, 3))
        apart = (every - same * count) / max(1, count * (count - 1))
        table = pd.DataFrame(same - apart, index=self.samples.languages, columns=self.samples.languages)
        extra = [
            [f"one meaning {a:.4f}, two {b:.4f}" for a, b in zip(row, other, strict=True)]
            for row, other in zip(same, apart, strict=True)
        ]
        return pair_plot(table, "same meaning, less different", extra=extra)

    def pair(self, layer: str, first: str, second: str) -> Plot:
        """Every sample in one language against every sample in another."""
        tags = self.samples.languages
        values = self.similarities(layer)[tags.index(first), :, tags.index(second)]
        numbers = list(range(1, len(self.samples) + 1))
        keys = [plain(key) for key in self.samples.keys]
        plot = heatmap(
            values,
            x=numbers,
            y=numbers,
            hover=f"{first} %{{y}}, {second} %{{x}}<br>%{{text}}<br>similarity %{{z:.4f}}",
            x_title=named(second),
            y_title=named(first),
            label="cosine",
            text=[[f"{a} – {b}" for b in keys] for a in keys] if len(keys) <= 200 else None,
            low=float(np.percentile(values, 1)),
            high=float(np.percentile(values, 99.5)),
            height=560,
        )
        plot["layout"]["xaxis"]["side"] = "top"
        return plot

    def sentences(self, first: str, second: str, i: int, j: int) -> str:
        """Two samples in words, with their similarity layer by layer; samples from 1."""
        tags, keys = self.samples.languages, self.samples.keys
        texts = self.run_view.sentences
        a, b = tags.index(first), tags.index(second)
        cosines = []
        for layer in range(self.samples.layers):
            vectors = normalised(self.samples.layer(layer)[[a, b], [i - 1, j - 1]].to(torch.float64))
            cosines.append(float((vectors[0] * vectors[1]).sum()))
        return drawn(
            "sentences.html",
            sides=[(first, keys[i - 1], texts.get(keys[i - 1], {}).get(first)),
                   (second, keys[j - 1], texts.get(keys[j - 1], {}).get(second))],
            cosines=cosines,
        )  # fmt: skip

    def scores(self) -> tuple[Plot, Plot | None]:
        """LRDS and SADS by layer, and SES with its excess where states were kept; bands are 95 % intervals."""
        plots = []
        table = self.table
        for names in (("lrds", "sads"), ("ses", "ses_margin")):
            if names[0] in table:
                some = table[[column for name in names for column in (name, f"{name}_low", f"{name}_high")]]
                some = some.rename(columns={name: _WORDS[name] for name in names})
                bands = {_WORDS[name]: (f"{name}_low", f"{name}_high") for name in names}
                plots.append(curves(some, x_title="layer", y_title="", bands=bands))
        return plots[0], plots[1] if len(plots) > 1 else None


_WORDS = {"lrds": "LRDS", "sads": "SADS", "ses": "SES", "ses_margin": "SES, less that of different meanings"}
