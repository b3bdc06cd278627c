"""Tang et al. 2024: language-specific neurons, what breaks without them, where they are, and steering by them."""

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import BaseModel, Field

from neuroglot.alignment import scores, sentence_similarity
from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.load import load_corpus
from neuroglot.corpus.prompts import Prompting
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.ablation.perturbation import perturb
from neuroglot.evaluate.steering.answers import summary, well_formed
from neuroglot.evaluate.steering.forcing import Forced, Prompts, Steering
from neuroglot.evaluate.steering.judge import JudgeSettings
from neuroglot.evaluate.steering.tables import matrix, repair
from neuroglot.figures.alignment import dominance_figure, ses_figure
from neuroglot.figures.neurons import layer_figure, perturbation_figure
from neuroglot.figures.papers import growth_figure
from neuroglot.figures.steering import forcing_figure
from neuroglot.figures.words import change_text, diagonal_words, share_diagonal_dominant, target_words, thirds
from neuroglot.generation.settings import Generation
from neuroglot.identify.lape import lape
from neuroglot.identify.parameter_variation import parameter_variation
from neuroglot.identify.registry import described
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.tags import language_name
from neuroglot.run.directory import Run
from neuroglot.run.identification import identify_run, keep_neurons
from neuroglot.run.perturbation import perturb_run
from neuroglot.run.recording import record_run
from neuroglot.run.steering import RunAnswers, first_prompts, judge_of
from neuroglot.stats import spearman
from neuroglot.studies.answers import judged_on_target, on_target
from neuroglot.studies.settings import MeasureSettings, ParallelSettings, StudySettings
from neuroglot.studies.study import Finding, Study, not_asked

__all__ = ["Lape", "LapeSettings"]


class IdentifySettings(BaseModel, extra="forbid"):
    """Which neurons are a language's; see `identify`."""

    methods: list[str] = ["lape", "lap", "lave", "random"]
    """Those of Figure 2."""
    top_fraction: float = Field(0.01, gt=0, le=1)
    """Share of all neurons that are chosen."""
    activity_quantile: float = Field(0.95, gt=0, le=1)
    """Only neurons above this quantile of all values count."""
    lap_threshold: float = Field(0.95, ge=0, lt=1)
    """Of LAP."""
    tuned: str | None = None
    """What `neuroglot tune` wrote, a folder a language: with it, Figure 2 has parameter variation too."""


class GrowthSettings(BaseModel, extra="forbid"):
    """Figure 4: more and more neurons of one language."""

    language: str = "fr"
    """Whose."""
    fractions: list[float] = [0.01, 0.02, 0.05, 0.1]
    """Shares of all neurons that count as language-specific."""


class GenerationSettings(BaseModel, extra="forbid"):
    """Tables 1 and 2: open-ended answers; see `evaluate.deactivated`."""

    prompts: str = "questions"
    """A corpus of prompts, or questions or openings."""
    limit: int = Field(80, ge=1)
    """At most so many a language."""
    how: Generation = Generation()
    """How they are continued."""
    judge: JudgeSettings | None = None
    """What scores the answers; nothing does by default."""
    example: str = "zh"
    """The language of Table 2."""


class SteerSettings(BaseModel, extra="forbid"):
    """Tables 4 and 5: steered answers; see `evaluate.force`."""

    how: Steering = Steering(method="raise")
    """What is done to the target's neurons."""
    source: str = "es"
    """Table 5 asks in this language …"""
    target: str = "zh"
    """… and wants its answer in this one."""
    seeds: int = Field(1, ge=1)
    """Draws of random neurons."""
    prompting: tuple[Prompting, ...] = ("none",)
    """Table 5 asks with each of these: none, «answer in …» in English (I), or in the target (II)."""


class LapeSettings(StudySettings, extra="forbid"):
    """All settings of the study; a settings file has a section for each."""

    identify: IdentifySettings = IdentifySettings()
    """Which neurons."""
    perturb: MeasureSettings = MeasureSettings()
    """Figures 2 to 4."""
    models: list[str] = Field(default_factory=list)
    """Figure 3: other models, beside the study's own."""
    growth: GrowthSettings = GrowthSettings()
    """Figure 4."""
    parallel: ParallelSettings = ParallelSettings()
    """Figures 6 and 7."""
    generation: GenerationSettings = GenerationSettings()
    """Tables 1 and 2."""
    steer: SteerSettings = SteerSettings()
    """Tables 4 and 5."""


class Lape(Study):
    """The experiments of the LAPE paper, in its order."""

    name: ClassVar[str] = "lape"
    Settings: ClassVar[type[StudySettings]] = LapeSettings
    settings: LapeSettings

    # --- what several items need --------------------------------------------------------------------------------------

    def of(self, method: str) -> NeuronSet:
        """A method's neurons, by this study's settings. Random sets are as large as LAPE's."""
        if method == "pv":
            return self.varied
        how = self.settings.identify
        given = how.model_dump() | {"threshold": how.lap_threshold}
        return self.neurons(method, **{name: given[name] for name in described(method).settings if name in given})

    @cached_property
    def varied(self) -> NeuronSet:
        """Parameter variation's neurons, from models tuned on each language, kept in the run as `pv`.

        Raises:
            NeuroglotError: no folder is named, or it lacks a language's.
        """
        how, languages = self.settings.identify, self.text[0].languages
        if how.tuned is None:
            raise not_asked("identify.tuned, a folder of models tuned on each language,")
        where = Path(self.of_each(how.tuned))
        tuned = {tag: where / tag for tag in languages}
        if missing := [tag for tag, folder in tuned.items() if not folder.is_dir()]:
            raise NeuroglotError(
                f"{where} has no model tuned on {', '.join(missing)}; make them with `neuroglot tune`."
            )
        self.record()
        found = parameter_variation(self.settings.model.source, tuned, top_fraction=how.top_fraction)
        return keep_neurons(self.run, "pv", found, {"tuned": how.tuned, "top_fraction": how.top_fraction})

    def change(self, method: str) -> Perturbation:
        """The perplexity-change matrix of a method, beside as many random neurons as its largest set has."""
        self.of(method)
        return self.perturb(method, self.settings.perturb)

    @cached_property
    def sentences(self) -> Samples:
        """Sentences of one meaning in every language."""
        assert self.model.stream_width  # says why, where no stream is the state of a token
        return self.samples(self.settings.parallel)

    @cached_property
    def asked(self) -> RunAnswers:
        """The model, to be asked."""
        how = self.settings.generation
        neurons, judge = self.of("lape"), judge_of(self.run, how.judge)
        return RunAnswers(self.run, self.model, self.recording, neurons, how.how, judge)

    def prompts(self, languages: tuple[str, ...]) -> dict[str, list[str]]:
        """The prompts in each of these languages that there are."""
        how = self.settings.generation
        corpus = load_corpus(how.prompts)
        return first_prompts(corpus, [tag for tag in languages if tag in corpus.languages], how.limit)

    @cached_property
    def answers_off(self) -> pd.DataFrame:
        """Answers with each language's neurons off."""
        work = self.asked
        return work.judged(work.switched_off(self.prompts(work.neurons.languages)))

    def forced(
        self,
        prompts: Prompts,
        targets: list[str],
        conditions: tuple[Forced, ...],
        prompting: tuple[Prompting, ...] = ("none",),
    ) -> pd.DataFrame:
        """Steered answers."""
        work, how = self.asked, self.settings.steer
        return work.judged(work.forced(prompts, targets, how.how, conditions, how.seeds, prompting))

    def of_another(self, source: str) -> Perturbation:
        """What `change` gives for LAPE, of another model; in a run of its own."""
        how, measure = self.settings.identify, self.settings.perturb
        run = Run.create(
            self.path / "models" / Path(source).name, self.settings.model.model_copy(update={"source": source}),
            self.settings.text, self.settings.record,
        )  # fmt: skip
        run.workers = self.run.workers
        model = run.load_model()
        record_run(run, model, self.text[0])
        identify_run(run, "lape", {"top_fraction": how.top_fraction, "activity_quantile": how.activity_quantile})
        return perturb_run(
            run, model, "lape", tokens=measure.tokens, block=measure.block, seeds=measure.seeds, corpus=measure.corpus,
            languages=self.settings.text.languages,
        )  # fmt: skip

    def grown(self, fraction: float) -> Perturbation:
        """Figure 4's language with this share of all neurons counted as language-specific, that language's off."""
        language, measure = self.settings.growth.language, self.settings.perturb
        neurons = lape(
            self.recording, top_fraction=fraction, activity_quantile=self.settings.identify.activity_quantile
        )
        return perturb(
            self.model, self.other_corpus(measure.corpus) or self.text[1], neurons.select([language]),
            tokens=measure.tokens, block=measure.block, seeds=0,
            resume=self.path / "perturbation" / f"lape-{language}-{fraction:g}.json",
            beside=[self.run.perturbation_path("lape")],
        )  # fmt: skip

    # --- the paper's tables and figures -------------------------------------------------------------------------------

    def figure_2(self) -> Finding:
        """The perplexity-change matrix of each method."""
        said, tables, figures, leading = [], {}, {}, {}
        methods = list(self.settings.identify.methods)
        if self.settings.identify.tuned is not None:
            self.of("pv")  # what is missing is said before anything is measured
            methods.append("pv")
        for method in dict.fromkeys(methods):
            result = self.change(method)
            leading[method] = share_diagonal_dominant(result)
            title = f"{method_title(method)} neurons of {self.of_model} off: change of perplexity"
            figures[method] = perturbation_figure(result, title)
            tables[method] = result.frame()
            said.append(f"{method_title(method)}: {diagonal_words(result)}; {target_words(result)}.")
            if method == "lape":
                random, sizes = result.random_change.loc["mean"].to_numpy(dtype=float), result.sizes
                said.append(
                    f"{sizes['random']} random neurons off (Figure 8), as many as the largest LAPE set: "
                    f"{change_text(random.min())} to {change_text(random.max())}."
                )
        rivals = [share for method, share in leading.items() if method != "lape"]
        own = leading.get("lape")
        agrees = None if own is None else own > 0.5 and all(own >= share for share in rivals)
        return Finding(said, agrees, tables, figures)

    def figure_3(self) -> Finding:
        """LAPE on other models."""
        if not self.settings.models:
            alone = self.change("lape")
            said = [
                f"This model alone: {diagonal_words(alone)}; {target_words(alone)}. Others are measured beside it with "
                "models = [...] in the settings, or each on a page of its own with --models."
            ]
            return Finding(said, share_diagonal_dominant(alone) > 0.5, {self.of_model: alone.frame()})
        said, tables, figures, leading = [], {}, {}, []
        for source in self.settings.models:
            own = source == self.settings.model.source
            result, name = self.change("lape") if own else self.of_another(source), Path(source).name
            tables[name] = result.frame()
            figures[name] = perturbation_figure(result, f"LAPE neurons of {name} off: change of perplexity")
            said.append(f"{name}: {diagonal_words(result)}; {target_words(result)}.")
            leading.append(share_diagonal_dominant(result))
        neurons = self.of("lape")
        if {"zh", "ja"} <= set(neurons.languages):
            shared = int(neurons.intersection("zh", "ja").sum())
            said.append(f"Chinese and Japanese share {shared} of {int(neurons['zh'].sum())} and "
                        f"{int(neurons['ja'].sum())} neurons in {self.of_model}.")  # fmt: skip
        return Finding(said, all(share > 0.5 for share in leading), tables, figures)

    def table_1(self) -> Finding:
        """Answers with each language's neurons off."""
        answers, judge = self.answers_off, self.asked.judge
        agrees: bool | None
        wide, said, agrees = on_target(answers.assign(rate=well_formed(answers)), "share of well-formed answers")
        tables = {"": wide, "answers": answers}
        if judge is not None:
            tables["rules"] = wide
            tables[""], scored, agrees = judged_on_target(answers, judge.settings)
            said = [*scored, f"By rules, without the judge: {said[0]}", said[1]]
        return Finding(said, agrees, tables)

    def table_2(self) -> Finding:
        """What a language's answers read like without its neurons."""
        tag = self.settings.generation.example
        answers = self.answers_off
        of = answers[answers["target"] == tag]
        if of.empty:
            raise NeuroglotError(f"there are no prompts in {tag}; name another language as generation.example.")
        normal = of[of["off"] == "normal"].set_index("prompt")["answer"]
        off = of[of["off"] == tag].set_index("prompt")["answer"]
        table = pd.DataFrame(
            {"question": normal.index, "normal": normal.to_numpy(), "off": off[normal.index].to_numpy()}
        )
        changed = int((table["normal"] != table["off"]).sum())
        return Finding([f"{changed} of {len(table)} answers in {language_name(tag)} change."], None, {"": table})

    def table_3(self) -> Finding:
        """How many neurons each language has."""
        neurons = self.of("lape")
        sizes = neurons.sizes()
        fewest = min(sizes, key=lambda tag: sizes[tag])
        total = int(neurons.union().sum())
        said = [
            f"{total} neurons are language-specific; added up over languages {sum(sizes.values())}.",
            f"{language_name(fewest)} has the fewest, {sizes[fewest]}; the largest set has {max(sizes.values())}.",
        ]
        return Finding(said, fewest == "en" if "en" in sizes else None, {"": pd.DataFrame([sizes])})

    def figure_4(self) -> Finding:
        """More and more neurons of one language."""
        how = self.settings.growth
        changes, sizes = {}, {}
        for fraction in sorted(how.fractions):
            default = fraction == self.settings.identify.top_fraction
            result = self.change("lape") if default else self.grown(fraction)
            changes[fraction] = result.change.loc[how.language]
            sizes[fraction] = result.sizes[how.language]
        table = pd.DataFrame(changes).T.rename_axis("fraction")
        own, others = table[how.language], table.drop(columns=how.language)
        last, name = table.index[-1], language_name(how.language)
        said = [
            f"{name} rises by " + ", ".join(f"{change_text(own[f])} at {f:.1%} ({sizes[f]} neurons "
                                            f"off)" for f in own.index) + ".",
            f"Of the others {language_name(str(others.loc[last].idxmax()))} rises most at {last:.0%} "
            f"({change_text(others.loc[last].max())}); the median of the others is "
            f"{change_text(others.loc[last].median())}.",
        ]  # fmt: skip
        diagonal_dominant = bool((own > others.max(axis=1)).all())
        agrees = diagonal_dominant and bool(own.iloc[-1] > own.iloc[0] and own.min() > 0)  # harmed, and ever more
        if "es" in others and how.language == "fr":
            agrees = agrees and others.loc[last].idxmax() == "es"
        table.insert(0, "neurons", pd.Series(sizes))
        title = f"{name} LAPE neurons of {self.of_model} off"
        figure = growth_figure(table.drop(columns="neurons"), how.language, title)
        return Finding(said, agrees, {"": table.reset_index()}, {"": figure})

    def figure_5(self) -> Finding:
        """Where the neurons are."""
        neurons = self.of("lape")
        first, middle, last = thirds(neurons)
        said = [f"Share by thirds of the layers, added up over languages: first {first:.0%}, middle {middle:.0%}, last "
                f"{last:.0%}."]  # fmt: skip
        counts = neurons.union().sum(1)
        fullest = ", ".join(f"layer {i + 1} ({int(counts[i])})" for i in counts.argsort(descending=True)[:3].tolist())
        said.append(f"Most neurons: {fullest} of {len(counts)} layers.")
        figure = layer_figure(neurons, f"LAPE neurons of {self.of_model}, by layer")
        return Finding(said, first > middle < last, {"": neurons.counts().reset_index()}, {"": figure})

    def table_8(self) -> Finding:
        """The counts behind Figure 5."""
        neurons = self.of("lape")
        first, middle, last = thirds(neurons)
        said = [f"{self.of_model}: first third {first:.1%}, middle {middle:.1%}, last third {last:.1%}."]
        return Finding(said, None, {"": neurons.counts().reset_index()})

    def figure_6(self) -> Finding:
        """Sentence-embedding similarity beside where the neurons are."""
        layers: Any = scores.by_layer(self.sentences)
        neurons = self.of("lape")
        ses, number = layers["ses"], neurons.counts().sum(axis=1)
        rank = spearman(torch.tensor(ses.to_numpy(dtype=float)), torch.tensor(number.to_numpy(dtype=float)))
        peak = int(ses.idxmax())
        said = [
            f"SES is {ses.iloc[0]:.3f} in the first layer, {ses.max():.3f} at its peak in layer {peak}, "
            f"{ses.iloc[-1]:.3f} in the last; Spearman correlation with the number of LAPE neurons {rank:+.2f}.",
            "Its excess over the similarity of different meanings is at most "
            f"{layers['ses_margin'].max():.3f} (layer {int(layers['ses_margin'].idxmax())}): where that is small, "
            "states are alike whatever they mean.",
        ]  # fmt: skip
        title = f"SES over LAPE neurons, {self.of_model}"
        agrees = peak not in (ses.index[0], ses.index[-1]) and rank < 0
        return Finding(said, agrees, {"": layers.reset_index()}, {"": ses_figure(layers, neurons, "LAPE", title)})

    def figure_7(self) -> Finding:
        """Dominance of each language."""
        table = sentence_similarity.dominance(self.sentences)
        mean = table.mean().sort_values(ascending=False)
        said = ["Dominance, mean over layers: " + ", ".join(f"{tag} {value:.3f}" for tag, value in mean.items()) + "."]
        agrees = str(mean.index[0]) == "en" if "en" in mean else None
        figure = dominance_figure(table, f"Dominance in {self.of_model}")
        return Finding(said, agrees, {"": table.reset_index()}, {"": figure})

    def table_4(self) -> Finding:
        """Off-target answers, repaired."""
        languages = self.of("lape").languages
        prompts = self.prompts(languages)
        parts = [self.forced({tag: texts}, [tag], ("intact", "raised")) for tag, texts in prompts.items()]
        answers = pd.concat(parts, ignore_index=True)
        table: Any = repair(answers)
        if "score" in answers:
            score = answers.pivot_table("score", "target", "condition", sort=False)
            table["intact_score"], table["steered_score"] = score["intact"], score["raised"]
        worse = [tag for tag in table.index if table.loc[tag, "steered"] < table.loc[tag, "intact"]]
        better = [tag for tag in table.index if table.loc[tag, "steered"] > table.loc[tag, "intact"]]
        said = [
            f"Answers in the language of the question: {table['intact'].mean():.0%} normal, "
            f"{table['steered'].mean():.0%} "
            f"steered (mean over {len(table)} languages); more of them for {len(better)}, fewer for {len(worse)}"
            + (f" ({', '.join(map(language_name, map(str, worse)))})." if worse else "."),
            f"{int(table['repaired'].sum())} of {int(table['off_target'].sum())} off-target answers are repaired, "
            f"{int(table['broken'].sum())} of the others broken.",
        ]  # fmt: skip
        repairable = bool(table["off_target"].sum())
        agrees = False if worse else bool(better) if repairable else None
        return Finding(said, agrees, {"": table.reset_index(), "answers": answers})

    def table_5(self) -> Finding:
        """Asked in one language, answered in another."""
        how = self.settings.steer
        prompts = self.prompts((how.source,))
        if not prompts:
            raise NeuroglotError(f"there are no prompts in {how.source}; name another language as steer.source.")
        ways = tuple(dict.fromkeys(("none", *how.prompting)))
        answers = self.forced(prompts, [how.target], ("intact", "both", "random"), ways)
        conditions: tuple[Forced, ...] = ("intact", "both", "random")
        rate = {name: matrix(answers, name).to_numpy(dtype=float).item() for name in conditions}
        formed: Any = summary(answers, ["condition"])["well_formed"]
        said = [
            f"Of {len(prompts[how.source])} questions in {language_name(how.source)}, answered in "
            f"{language_name(how.target)}: {rate['both']:.0%} steered, {rate['intact']:.0%} intact, "
            f"{rate['random']:.0%} "
            f"with random neurons; steered and well-formed: {float(formed['both']):.0%}.",
        ]  # fmt: skip
        if len(ways) > 1:
            beside = {
                name: matrix(answers, name).to_numpy(dtype=float).item()
                for name in answers.loc[answers["prompting"] != "none", "condition"].unique()
            }
            said.append("Beside it: " + ", ".join(f"{name} {share:.0%}" for name, share in beside.items()) + ".")
        shown = answers[answers["condition"] == "both"][["prompt", "answer", "language"]]
        figure: Figure = forcing_figure(answers, "Share of answers in the target language")
        agrees = rate["both"] >= 0.5 and rate["both"] > rate["random"]
        return Finding(said, agrees, {"": shown, "answers": answers}, {"": figure})
