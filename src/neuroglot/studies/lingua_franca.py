"""Zeng et al. 2025: one language and one meaning in the activations, key regions, and both over training and scale."""

from functools import cached_property
from typing import ClassVar

import pandas as pd
from pydantic import BaseModel, Field

from neuroglot.alignment import scores, similarity
from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.samples import Samples
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.continuations import beginnings, continuations
from neuroglot.figures.alignment import (
    evolution_figure,
    region_layers_figure,
    score_figure,
    similarity_figure,
    sizes_figure,
)
from neuroglot.figures.neurons import layer_figure, perturbation_figure
from neuroglot.figures.papers import region_figure
from neuroglot.figures.words import change_text, share_diagonal_dominant, target_words, thirds
from neuroglot.identify.key_regions import key_regions
from neuroglot.languages.tags import language_name
from neuroglot.run.evolution import Evolution, EvolveSettings, evolve
from neuroglot.run.identification import keep_neurons
from neuroglot.run.settings import AlignSettings
from neuroglot.storage.tables import save_table
from neuroglot.studies.settings import MeasureSettings, ParallelSettings, StudySettings, TaskSettings
from neuroglot.studies.study import Finding, Study, not_asked

__all__ = ["LinguaFranca", "LinguaFrancaSettings"]


class RegionSettings(BaseModel, extra="forbid"):
    """Key linguistic regions; see `identify.key_regions`."""

    threshold: float = Field(2.0, ge=0)
    """z-score that a neuron must exceed."""


class WritingSettings(BaseModel, extra="forbid"):
    """Tables 2 and 3: what is written with a region off."""

    prompts: int = Field(3, ge=1)
    """Beginnings of held-out documents a language."""
    tokens: int = Field(64, ge=1)
    """At most so many new ones."""
    languages: list[str] = ["en", "zh", "fr"]
    """Whose."""


class LinguaFrancaSettings(StudySettings, extra="forbid"):
    """All settings of the study; a settings file has a section for each."""

    parallel: ParallelSettings = ParallelSettings()
    """The samples."""
    regions: RegionSettings = RegionSettings()
    """What belongs to a region."""
    perturb: MeasureSettings = MeasureSettings()
    """Table 1."""
    writing: WritingSettings = WritingSettings()
    """Table 2."""
    checkpoints: list[str] = Field(default_factory=list)
    """Figures 4 and 5: the model in training, in order, each a directory, a hub id or ID@REVISION."""
    sizes: list[str] = Field(default_factory=list)
    """Figure 7: models of one family, smallest first."""
    evolve: EvolveSettings = EvolveSettings()
    """How these are measured."""
    xstorycloze: TaskSettings = TaskSettings()
    """Appendix B."""


class LinguaFranca(Study):
    """The experiments of *Converging to a Lingua Franca*, in its order."""

    name: ClassVar[str] = "lingua-franca"
    Settings: ClassVar[type[StudySettings]] = LinguaFrancaSettings
    settings: LinguaFrancaSettings

    # --- what several items need --------------------------------------------------------------------------------------

    @cached_property
    def verses(self) -> Samples:
        """The samples."""
        how = self.settings.parallel
        samples = self.samples(how)
        with self.run.changing() as manifest:
            manifest.align = AlignSettings(
                corpus=how.corpus, samples=how.samples, max_tokens=how.max_tokens,
                threshold=self.settings.regions.threshold,
            )  # fmt: skip
        return samples

    @cached_property
    def regions(self) -> NeuronSet:
        """Each language's key region, kept in the run as the method `regions`."""
        found = key_regions(self.verses, threshold=self.settings.regions.threshold)
        about = {"threshold": self.settings.regions.threshold, "samples": len(self.verses)}
        return keep_neurons(self.run, "regions", found, about)

    @property
    def what(self) -> str:
        """The model and the samples, for titles."""
        samples = self.verses
        return f"{self.of_model}: {len(samples)} samples in each of {len(samples.languages)} languages"

    def evolved(self, models: list[str], *, sizes: bool) -> Evolution:
        """The measures of every model of a list."""
        corpus = self.other_corpus(self.settings.parallel.corpus) or self.text[0]
        how = self.settings.evolve.model_copy(update={"sizes": sizes})
        held_out = self.other_corpus(self.settings.perturb.corpus) or self.text[1]
        return evolve(
            models, corpus, self.path / ("sizes" if sizes else "checkpoints"), held_out=held_out, settings=how
        )

    # --- the paper's tables and figures -------------------------------------------------------------------------------

    def figure_2(self) -> Finding:
        """The similarity map."""
        samples = self.verses
        summary, layers = scores.summary(samples), scores.by_layer(samples, draws=0)
        best = 1 + int(layers["sads"].to_numpy().argmax())
        whole, one = similarity.similarity_map(samples), similarity.similarity_map(samples, layer=best - 1)
        figures = {
            "": similarity_figure(whole, samples.languages, self.what),
            f"layer-{best}": similarity_figure(one, samples.languages, f"{self.what}; layer {best}", centred=True),
        }
        said = [
            f"{str(name).upper()} {row['value']:.4f} (95 % interval {row['low']:.4f} to {row['high']:.4f})."
            for name, row in summary.iterrows()
        ]
        said.append(
            f"The second map is layer {best}, where SADS is highest, less the row and column means of each block."
        )
        return Finding(said, bool((summary["low"] > 0).all()), {"": summary.reset_index()}, figures)

    def figure_3(self) -> Finding:
        """LRDS and SADS by layer."""
        layers = scores.by_layer(self.verses)
        third = max(1, len(layers) // 3)
        parts = layers.iloc[:third], layers.iloc[third : len(layers) - third], layers.iloc[len(layers) - third :]
        lrds, sads = ([float(part[name].mean()) for part in parts] for name in ("lrds", "sads"))
        said = [
            f"{name} in the first, middle and last third of the layers: "
            f"{', '.join(f'{value:.3f}' for value in values)}; "
            f"highest in layer {1 + int(layers[name.lower()].to_numpy().argmax())} of {len(layers)}."
            for name, values in (("LRDS", lrds), ("SADS", sads))
        ]
        agrees = sads[1] > max(sads[0], sads[2]) and lrds[1] < min(lrds[0], lrds[2])
        figure = score_figure(layers, f"Alignment of {self.of_model} by layer")
        return Finding(said, agrees, {"": layers.reset_index()}, {"": figure})

    def table_1(self) -> Finding:
        """Regions off."""
        regions = self.regions
        self.record()
        result = self.perturb("regions", self.settings.perturb)
        change, matched = result.change, result.matched_change.loc["mean"]
        own = pd.Series({tag: change.loc[tag, tag] for tag in result.diagonal_dominant.index})
        above = [str(tag) for tag in own.index if own[tag] > matched[tag]]
        diagonal_dominant = [str(tag) for tag in own.index if result.diagonal_dominant[tag]]
        said = [
            f"Diagonal-dominant with a region off for {len(diagonal_dominant)} of {len(own)} languages"
            f"{_but(own.index, diagonal_dominant)}; {target_words(result)}.",
            f"It is above random neurons as many as the region has for {len(above)} of "
            f"{len(own)}{_but(own.index, above)}.",
        ]  # fmt: skip
        table = pd.DataFrame(
            {
                "full perplexity": pd.Series(result.intact),
                "own region off": own.map(change_text),
                "as many random off": matched.map(change_text),
                "neurons": pd.Series(regions.sizes()),
            }
        ).loc[list(own.index)]
        table["share"] = (table["neurons"] / regions.total).map("{:.1%}".format)
        wide = change.T.map(change_text).rename_axis("language measured").reset_index()
        title = f"Key regions of {self.of_model} off: change of perplexity"
        agrees = share_diagonal_dominant(result) > 0.5 and len(above) > len(own) / 2
        tables = {"": table.rename_axis("language").reset_index(), "all": wide}
        return Finding(said, agrees, tables, {"": perturbation_figure(result, title)})

    def figure_4(self) -> Finding:
        """Over training."""
        if len(self.settings.checkpoints) < 2:
            raise not_asked("at least two checkpoints = [...]")
        evolution = self.evolved(self.settings.checkpoints, sizes=False)
        said, agrees = _trend(evolution.table, ("lrds", "sklr"), ("sads",))
        figure = evolution_figure(_drawable(evolution.table), "step", evolution.tasks, "Alignment over training")
        return Finding(said, agrees, {"": evolution.table}, {"": figure})

    def figure_5(self) -> Finding:
        """Where the regions are."""
        if len(self.settings.checkpoints) < 2:
            first, middle, last = thirds(self.regions)
            said = [f"One checkpoint only. Of its key neurons {first:.0%} are in the first third of the layers, "
                    f"{middle:.0%} "
                    f"in the middle, {last:.0%} in the last."]  # fmt: skip
            figure = layer_figure(self.regions, f"Key regions of {self.of_model}, by layer")
            return Finding(said, first > middle < last, {"": self.regions.counts().reset_index()}, {"": figure})
        counts = self.evolved(self.settings.checkpoints, sizes=False).regions
        shares = {}
        for name, table in counts.items():
            by_layer = table.sum(axis=1)
            shares[name] = float(by_layer.iloc[: len(by_layer) // 3].sum() / max(1, by_layer.sum()))
        said = ["Share of the key neurons in the first third of the layers: "
                + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) + "."]  # fmt: skip
        values = list(shares.values())
        long = pd.concat([table.reset_index().assign(checkpoint=name) for name, table in counts.items()])
        figure = region_layers_figure(counts, "Where the key regions are")
        return Finding(said, values[-1] > values[0], {"": long}, {"": figure})

    def figure_6(self) -> Finding:
        """Sizes of the regions."""
        sizes = pd.Series(self.regions.sizes())
        far = [tag for tag in ("vi", "ar", "zh") if tag in sizes]
        others = sizes.drop(far)
        median = float(others.median()) if len(others) else float("nan")
        large = [tag for tag in far if sizes[tag] > median]
        total = self.regions.total
        said = [
            f"SKLR is {int(sizes.sum()):,}, {sizes.sum() / total:.0%} of the {total:,} neurons, counted by "
            f"language. The "
            f"largest region is that of {language_name(str(sizes.idxmax()))} ({sizes.max():,}), the smallest of "
            f"{language_name(str(sizes.idxmin()))} ({sizes.min():,}).",
            f"Above the median of the others ({median:,.0f}): {', '.join(large) or 'none'} of {', '.join(far)}.",
        ]  # fmt: skip
        figure = region_figure(sizes, total, f"Key regions of {self.of_model}")
        table = sizes.rename("neurons").rename_axis("language").reset_index()
        return Finding(said, len(large) == len(far) if far and len(others) else None, {"": table}, {"": figure})

    def figure_7(self) -> Finding:
        """Over model sizes."""
        if len(self.settings.sizes) < 2:
            raise not_asked("at least two models as sizes = [...]")
        evolution = self.evolved(self.settings.sizes, sizes=True)
        said, agrees = _trend(evolution.table, ("lrds",), ("sads",))
        figure = sizes_figure(_drawable(evolution.table), evolution.tasks, "Alignment by model size")
        return Finding(said, agrees, {"": evolution.table}, {"": figure})

    def table_2(self) -> Finding:
        """What is written with a region off."""
        how, held_out = self.settings.writing, self.text[1]
        tags = [tag for tag in how.languages if tag in held_out.languages and tag in self.regions.languages]
        if not tags:
            raise NeuroglotError(f"none of {', '.join(how.languages)} is recorded; name others as writing.languages.")
        prompts = beginnings(self.model, held_out.select(tags), prompts=how.prompts)
        table = continuations(self.model, prompts, self.regions, tokens=how.tokens)
        save_table(self.run.continuations_path, table)
        changed = (table["intact"] != table["off"]).groupby(table["language"], sort=False).sum()
        said = [f"Continuations that change: {', '.join(f'{tag} {n} of {how.prompts}' for tag, n in changed.items())}."]
        return Finding(said, None, {"": table})

    def xstorycloze(self) -> Finding:
        """XStoryCloze with English endings."""
        how = self.settings.xstorycloze
        if not how.names:
            raise not_asked("xstorycloze.names")
        table = self.tasks(how.names, how)
        mean, error = float(table.value.mean()), float((table.stderr.astype(float) ** 2).sum() ** 0.5) / len(table)
        known = f" ± {error:.1%} (standard error)" if error == error else ""  # one item has none
        said = [f"Mean accuracy {mean:.1%}{known} over {len(table)} languages."]
        if any(name.startswith("smoke_") for name in how.names):
            said.append("Tasks named smoke_… are small sets of our own that only show that the path works: no "
                        "benchmark, and "
                        "no evidence for or against the paper.")  # fmt: skip
            return Finding(said, None, {"": table})
        return Finding(said, mean > 0.5 + 2 * error, {"": table})


def _but(all_of: "pd.Index[str]", some: list[str]) -> str:
    missing = [str(tag) for tag in all_of if tag not in some]
    return f" (not {', '.join(missing)})" if missing else ""


def _trend(table: pd.DataFrame, falling: tuple[str, ...], rising: tuple[str, ...]) -> tuple[list[str], bool]:
    """From the first to the last model that could be measured."""
    done = table[table["error"].isna()]
    first, last = done.iloc[0], done.iloc[-1]
    said = [
        f"{name.upper()} goes from {first[name]:.4g} to {last[name]:.4g}."
        for name in (*falling, *rising)
        if name in done
    ]
    agrees = all(last[name] < first[name] for name in falling) and all(last[name] > first[name] for name in rising)
    failed = list(table["checkpoint"][table["error"].notna()])
    return said + ([f"Failed: {', '.join(failed)}."] if failed else []), bool(agrees)


def _drawable(table: pd.DataFrame) -> pd.DataFrame:
    """With the columns that the figures read, empty where they were not measured."""
    missing = {name: float("nan") for name in ("perplexity", "sklr_share") if name not in table}
    return table.assign(**missing)
