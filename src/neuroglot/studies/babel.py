"""Liu et al. 2024: neurons grouped into experts, what each language activates, and pruning by it."""

import re
from functools import cached_property
from typing import ClassVar

import pandas as pd
from jaxtyping import Float64
from pydantic import BaseModel, Field
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import shared, tuning_change
from neuroglot.experts.similarity import compare
from neuroglot.figures.experts import change_figure, expert_similarity_figure, pattern_figure, shared_figure
from neuroglot.figures.papers import share_figure
from neuroglot.languages.genealogy import relatedness
from neuroglot.languages.tags import language_name
from neuroglot.run.experts import RunExperts, experts_of, record_experts, record_tuned
from neuroglot.run.pruning import prune_run, pruning_measured
from neuroglot.run.settings import ExpertSettings
from neuroglot.run.tasks import pruned_conditions
from neuroglot.stats import mantel
from neuroglot.studies.settings import StudySettings, TaskSettings
from neuroglot.studies.study import Finding, Study, not_asked

__all__ = ["Babel", "BabelSettings"]


class PruneSettings(BaseModel, extra="forbid"):
    """Tables 2 to 6 and Figure 5; see `pruning_run.prune_run`."""

    languages: list[str] | None = None
    """Whose experts to keep; by default every language's."""
    thresholds: list[float] = [0.05, 0.01]
    """Tables: keep experts of at least these frequencies."""
    shares: list[float] = [0.7, 0.8, 0.9]
    """Figure 5: keep these shares of each layer's experts."""
    budgets: list[float] = []
    """Not in the paper: remove these shares of all experts, the least salient by magnitude."""
    samples: int = Field(1_000, ge=1)
    """Held-out samples of each language, of at most 200 tokens."""
    seeds: int = Field(3, ge=1)
    """How many random choices each is compared with."""


class BabelSettings(StudySettings, extra="forbid"):
    """All settings of the study; a settings file has a section for each."""

    experts: ExpertSettings = ExpertSettings()
    """How neurons are grouped, and which experts are activated."""
    tuned: str | None = None
    """Figure 4: a tuned variant of the model; `{model}` in it is the model's name, so that several share settings."""
    prune: PruneSettings = PruneSettings()
    """What is kept."""
    xcsqa: TaskSettings = TaskSettings()
    """Table 3: X-CSQA."""
    mgsm: TaskSettings = TaskSettings()
    """Table 4: MGSM."""


class Babel(Study):
    """The experiments of *Unraveling Babel*, in its order."""

    name: ClassVar[str] = "babel"
    Settings: ClassVar[type[StudySettings]] = BabelSettings
    settings: BabelSettings

    # --- what several items need --------------------------------------------------------------------------------------

    @cached_property
    def experts(self) -> RunExperts:
        """The experts that the run counts in a pass of its own; or those of a native mixture, from the recording."""
        self.record()
        if not self.model.mixtures:
            record_experts(self.run, self.model, self.text[0], self.settings.experts)
        found = experts_of(self.run)
        assert found is not None
        return found

    @property
    def counted(self) -> Recording:
        """The recording that counted them."""
        return self.experts.recording

    def count(self) -> Recording:
        """Count experts unless that was done, so that they are in the run.

        Raises:
            NeuroglotError: the model is a native mixture of experts, whose neurons no partition groups.
        """
        self.model.check_dense(
            "its experts are not pruned as the paper's are", "see `neuroglot prune RUN --share`, which takes them out"
        )
        return self.counted

    @property
    def frequency(self) -> Float64[Tensor, "languages layers experts"]:
        """How often each language activates each expert, in the layers that have any."""
        return self.experts.frequency

    @property
    def layers(self) -> list[int]:
        """The numbers of these layers, from 1."""
        return [layer + 1 for layer in self.experts.layers]

    @property
    def languages(self) -> tuple[str, ...]:
        """Those recorded."""
        return self.counted.languages

    def pruned(self, rules: list[tuple[str, float]]) -> pd.DataFrame:
        """The paper's table for these choices: what is not there yet is measured, a language at a time."""
        self.count()
        how, file = self.settings.prune, self.run.path / "experts" / "pruning.csv"
        names = {(rule, value): rule_name(rule, value) for rule, value in rules}
        for tag in how.languages or self.languages:
            done = set()
            if file.is_file():
                table = pruning_measured(file)
                done = set(table.choice[table.language == tag])
            missing = [rule for rule in rules if names[rule] not in done]
            if missing:
                prune_run(self.run, self.model, [tag], missing, samples=how.samples, seeds=how.seeds)
        table = pruning_measured(file)
        for name in ("random", "random_std"):
            table[name] = pd.to_numeric(table[name], errors="coerce")
        return table[table.choice.isin(names.values())].reset_index(drop=True)

    # --- the paper's tables and figures -------------------------------------------------------------------------------

    def figure_1(self) -> Finding:
        """Activation patterns."""
        frequency, tags = self.frequency, self.languages
        spread, depth = frequency.std(2).mean(0), frequency.shape[1]
        third = max(1, depth // 3)
        early, late = float(spread[: depth - third].mean()), float(spread[depth - third :].mean())
        level = {tag: float(matrix[: depth - third].mean()) for tag, matrix in zip(tags, frequency, strict=True)}
        indic, latin = [
            [level[t] for t in group if t in level] for group in (("bn", "ur", "hi"), ("en", "fr", "es", "pt"))
        ]
        said = [
            f"Spread of the frequencies within a layer: {early:.3f} in the first two thirds, {late:.3f} in the last."
        ]
        if self.experts.native:  # whose mean is that of every language: its router always chooses as many
            indic = []
        else:
            means = ", ".join(f"{tag} {value:.3f}" for tag, value in level.items())
            said.append(f"Mean frequency in the first two thirds: {means}.")
        agrees = late > early and (not indic or not latin or min(indic) > max(latin))
        table = pd.DataFrame({"layer": self.layers, "spread": spread.numpy()})
        for tag, matrix in zip(tags, frequency, strict=True):
            table[tag] = matrix.mean(1).numpy()
        figure = pattern_figure(frequency, tags, f"Activation patterns of {self.of_model}", layers=self.experts.layers)
        return Finding(said, agrees, {"": table}, {"": figure})

    def figure_2(self) -> Finding:
        """Which languages are alike."""
        similarity, tags = compare(self.frequency), self.languages
        tables = {
            name: pd.DataFrame(getattr(similarity, name).numpy(), tags, tags).rename_axis("language").reset_index()
            for name in ("euclidean", "kl", "pearson")
        }
        figure = expert_similarity_figure(similarity, tags, f"Similarity of activation patterns in {self.of_model}")
        distance = similarity.euclidean.clone().fill_diagonal_(float("inf"))
        nearest = ", ".join(f"{tag} – {tags[int(row.argmin())]}" for tag, row in zip(tags, distance, strict=True))
        said, agrees = [f"Nearest by Euclidean distance: {nearest}."], None
        try:
            related = relatedness(tags, "family")
            tests = {name: mantel(matrix, related) for name, matrix in similarity.distances().items()}
        except NeuroglotError as error:
            said.append(f"Whether family explains it was not tested: {error}")
        else:
            said.append("Against distance by family and genus (Mantel): " + ", ".join(
                f"{name} r = {test.r:z.2f}, p = {test.p:.4f}" for name, test in tests.items()) + ".")  # fmt: skip
            agrees = all(test.p < 0.05 for test in tests.values())
        return Finding(said, agrees, tables, {"": figure})

    def figure_3(self) -> Finding:
        """Experts that all languages share."""
        share = shared(self.frequency, self.experts.high).double().mean(1)
        depth = len(share)
        third, fifth = max(1, depth // 3), max(1, depth // 5)
        middle = float(share[third : depth - third].mean())
        first, last = float(share[:2].mean()), float(share[depth - fifth :].mean())
        said = [f"Of the experts {float(share.mean()):.0%} are high-frequency in all {len(self.languages)} languages: "
                f"{first:.0%} in the first two layers, {middle:.0%} in the middle third, {last:.0%} in the last "
                f"fifth."]  # fmt: skip
        table = pd.DataFrame({"layer": self.layers, "shared_by_all": share.numpy()})
        figure = shared_figure(
            self.frequency,
            f"High-frequency experts of {self.of_model}",
            self.experts.high,
            layers=self.experts.layers,
        )
        return Finding(said, middle > first and middle > last, {"": table}, {"": figure})

    def figure_4(self) -> Finding:
        """What tuning changes."""
        if self.settings.tuned is None:
            raise not_asked("the tuned variant of the model as tuned")
        counted, tags = self.counted, self.languages
        source = self.of_each(self.settings.tuned)
        variant = self.run.as_recorded(self.settings.model).of_variant(source)
        tuned = record_tuned(self.run, variant, variant.load(), self.text[0])
        change = tuning_change(counted, tuned, self.experts.top)[:, self.experts.layers]
        moved = change.abs().mean((0, 2))
        most = self.layers[int(moved.argmax())]
        said = [f"The frequencies change most in layer {most} of {counted.layers}, by {float(moved.max()):.4f} on "
                f"average; in "
                f"the last by {float(moved[-1]):.4f}; median of the layers {float(moved.median()):.4f}."]  # fmt: skip
        by_language = change.abs().mean(2)
        most_in = by_language.argmax(1).tolist()
        last = [language_name(tag) for tag, place in zip(tags, most_in, strict=True) if place == len(self.layers) - 1]
        named = f" ({', '.join(last)})" if last else ""
        said.append(f"Taken alone, {len(last)} of {len(tags)} languages change most in the last layer{named}.")
        table = pd.DataFrame(by_language.T.numpy(), columns=list(tags))
        table.insert(0, "layer", self.layers)
        title = f"{self.of_model} once tuned, less before"
        figure = change_figure(change, tags, title, layers=self.experts.layers)
        return Finding(said, most == counted.layers, {"": table}, {"": figure})

    def table_2(self) -> Finding:
        """Perplexity by frequency threshold."""
        how = self.settings.prune
        table = self.pruned([("threshold", value) for value in how.thresholds])
        said, better = beside_random(table)
        tables = {"": table}
        if how.budgets:
            beyond = self.pruned([("budget", value) for value in how.budgets])
            tables["by-magnitude"] = beyond
            words, _ = beside_random(beyond)
            said += [f"Not in the paper, ranked by magnitude in place of frequency: {sentence}" for sentence in words]
        return Finding(said, better > 0.5, tables)

    def figure_5(self) -> Finding:
        """The same share of every layer."""
        table = self.pruned([("share", value) for value in self.settings.prune.shares])
        said, better = beside_random(table)
        mean = table.groupby("choice", sort=False).experts.median()
        falls = bool((mean.diff().dropna() <= 0).all())
        said.append("Median perplexity over languages: " + ", ".join(f"{n} {v:,.0f}" for n, v in mean.items()) + ".")
        figure = share_figure(table, f"{self.of_model}, the same share of every layer kept")
        return Finding(said, falls and better > 0.5, {"": table}, {"": figure})

    def table_3(self) -> Finding:
        """X-CSQA."""
        return self.benchmark(self.settings.xcsqa, "xcsqa.names")

    def table_4(self) -> Finding:
        """MGSM."""
        return self.benchmark(self.settings.mgsm, "mgsm.names")

    def benchmark(self, how: TaskSettings, setting: str) -> Finding:
        """Each language's experts only, on the tasks of that language, beside random ones."""
        if not how.names:
            raise not_asked(setting)
        self.count()
        rules = [("threshold", value) for value in self.settings.prune.thresholds]
        ends = {re.split(r"[_-]", name)[-1] for name in how.names}
        languages = [tag for tag in self.settings.prune.languages or self.languages if tag in ends]
        if not languages:
            raise NeuroglotError(f"no task of {', '.join(how.names)} ends with a language whose experts are kept.")
        conditions = pruned_conditions(
            self.run, self.model, languages, rules, seeds=self.settings.prune.seeds, own=True
        )
        table = self.tasks(how.names, how, conditions)
        score = table.set_index(["condition", "task"]).value
        pairs = [
            (score[name, task], score[f"random for {name}", task]) for name, task in score.index
            if f"random for {name}" in score.index.get_level_values(0)
        ]  # fmt: skip
        better = sum(bool(ours >= random) for ours, random in pairs)  # NumPy would count in a type of its own
        said = [
            f"Kept experts are at least as accurate as random ones in {better} of {len(pairs)} rows; mean "
            f"{100 * pd.Series([a for a, _ in pairs]).mean():.1f} % against "
            f"{100 * pd.Series([b for _, b in pairs]).mean():.1f} "
            f"%, the whole model {100 * table[table.condition == 'intact'].value.mean():.1f} %.",
        ]  # fmt: skip
        if any(name.startswith("smoke_") for name in how.names):
            items = f"{table['items'].iloc[0]:.0f}"
            said.append(f"Tasks named smoke_… are small sets of our own ({items} items here) that only show "
                        f"that the path "
                        "works: no benchmark, and no evidence for or against the paper.")  # fmt: skip
            return Finding(said, None, {"": table})
        return Finding(said, better > len(pairs) / 2, {"": table})


def rule_name(rule: str, value: float) -> str:
    """What `prune_run` calls a choice."""
    return f"{rule} {value:g}" + (" by magnitude" if rule == "budget" else "")


def beside_random(table: pd.DataFrame) -> tuple[list[str], float]:
    """Sentences, one a choice, and the share of its rows in which the kept experts beat the mean of the random ones."""
    said = []
    for choice, rows in table.groupby("choice", sort=False):
        wins = rows[rows.experts < rows.random.astype(float)]
        median = rows[["experts", "random", "original"]].astype(float).median()
        lost = [language_name(tag) for tag in rows.language if tag not in set(wins.language)]
        said.append(
            f"{choice} ({rows.proportion.astype(float).mean():.1%} of the experts): better than random for "
            f"{len(wins)} of "
            f"{len(rows)} languages{' (not ' + ', '.join(lost) + ')' if lost else ''}; median perplexity "
            f"{median['experts']:,.1f}, random {median['random']:,.1f}, original {median['original']:,.1f}."
        )  # fmt: skip
    return said, float((table.experts < table.random.astype(float)).mean())
