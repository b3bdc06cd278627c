"""Steering in a run: prompts answered in every condition, described, scored by a judge if there is one, and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import RESIDUAL, Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.load import load_corpus
from neuroglot.corpus.prompts import Prompting, asking, prompted
from neuroglot.edit.steering_methods import DIRECTIONS, SAMPLED
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.candidates import Candidate, alignment_layers, candidates, grid
from neuroglot.evaluate.steering.forcing import Forced, Prompts, Steering, deactivated, force
from neuroglot.evaluate.steering.judge import Judge, JudgeSettings
from neuroglot.evaluate.steering.relevance import LikelihoodRule, distinct_questions
from neuroglot.evaluate.steering.scores import harmonic_mean, steering_scores
from neuroglot.evaluate.steering.search import Found, Rater, plan_search, search
from neuroglot.evaluate.steering.tables import repair
from neuroglot.generation.prompts import check_prompts
from neuroglot.generation.settings import Generation
from neuroglot.languages.identifiers import Identification
from neuroglot.languages.tags import closest
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.settings import Manifest
from neuroglot.run.steering_settings import SteeringSettings
from neuroglot.storage.names import check_name
from neuroglot.storage.tables import load_table, save_table

__all__ = [
    "RunAnswers",
    "Steered",
    "first_prompts",
    "forget_answers",
    "judge_of",
    "read_answers",
    "samples_for",
    "samples_of",
    "save_recipes",
    "scores_of",
    "steer_run",
]

TABLES = ("steering-search", "answers", "answers-off", "steering", "steering-repair", "steering-scores")
"""What a set of prompts leaves in `tables/`, each as KIND-NAME.csv."""


@dataclass
class Steered:
    """What `steer_run` measured.

    Attributes:
        how: the target was raised; what a search chose, if there was one.
        chosen: by the search: how, in which condition, under which prompting.
        answers: a row an answer; see `evaluate.force`.
        rates: by condition, source and target; see `evaluate.summary`.
        tried: the table of the search, if there was one.
        off: answers with each language's neurons off, if asked for.
        repaired: see `evaluate.repair`; None where nothing can be repaired.
        scores: LFS, relevance and steering score by condition, over pairs of different languages, if relevance was
            asked for; see `evaluate.steering_scores`.
        written: the tables' files.
    """

    how: Steering
    answers: pd.DataFrame
    rates: pd.DataFrame
    tried: pd.DataFrame | None = None
    off: pd.DataFrame | None = None
    repaired: pd.DataFrame | None = None
    scores: pd.DataFrame | None = None
    chosen: Candidate | None = None
    written: list[Path] = field(default_factory=list)


@dataclass
class RunAnswers:
    """Asks a run's model, and keeps answers and scores in the run, each under what it depends on.

    Attributes:
        run: whose model.
        model: the run's.
        recording: the run's.
        neurons: found in it.
        generation: how answers are written.
        judge: who scores them, if anyone does.
        identification: who tells their language.
    """

    run: Run
    model: Model
    recording: Recording
    neurons: NeuronSet
    generation: Generation
    judge: Judge | None = None
    identification: Identification = "lingua"

    @cached_property
    def cells(self) -> Path:
        """Where answers are kept."""
        return self.run.steering_path / "cells"

    @cached_property
    def samples(self) -> Samples | None:
        """Those that the run's alignment recorded, if it did."""
        return samples_of(self.run)

    def forced(
        self,
        prompts: Prompts,
        targets: Sequence[str],
        how: Steering,
        conditions: Sequence[Forced],
        seeds: int,
        prompting: Sequence[Prompting] = ("none",),
    ) -> pd.DataFrame:
        """Answers in every condition; see `evaluate.force`."""
        return force(
            self.model, self.recording, self.neurons, prompts, targets=targets, how=how, conditions=conditions,
            seeds=seeds, prompting=prompting, samples=self.samples, identification=self.identification,
            generation=self.generation, directory=self.cells,
        )  # fmt: skip

    def switched_off(self, prompts: Prompts) -> pd.DataFrame:
        """Answers with each language's neurons off; see `evaluate.deactivated`."""
        return deactivated(self.model, self.neurons, prompts, generation=self.generation, directory=self.cells)

    def searched(
        self,
        prompts: Prompts,
        tried: Sequence[Candidate],
        targets: Sequence[str],
        sources: Sequence[str],
        settings: "SteeringSettings",
        relevance: Rater | None,
    ) -> Found:
        """The best of many settings; see `evaluate.search`."""
        return search(
            self.model, self.recording, self.neurons, prompts, tried, targets=targets, sources=sources,
            budget=settings.budget, relevance=relevance, max_loss=settings.max_loss, samples=self.samples,
            identification=self.identification, generation=self.generation, directory=self.cells,
        )  # fmt: skip

    def judged(self, answers: pd.DataFrame) -> pd.DataFrame:
        """The answers with their scores, if there is a judge."""
        return answers if self.judge is None else self.judge.rate(answers)


def candidates_of(recording: Recording, samples: Samples | None, settings: "SteeringSettings") -> list[Candidate]:
    """What a search tries; with a budget also directions, where the run recorded what they need."""
    layers = recording.layers
    if settings.budget is None:  # those of neurons
        return [Candidate(how, prompting=prompting) for prompting in settings.prompting for how in grid(layers)]
    stream = RESIDUAL in recording.sums
    states = stream and samples is not None and samples.states is not None
    return candidates(
        layers,
        neurons=("raise", "replace", "difference", "scale"),
        directions=[name for name in DIRECTIONS if stream and (states or name not in SAMPLED)],
        promptings=settings.prompting,
        a_priori=alignment_layers(samples) if samples is not None else (),
        conditions=("raised", "both"),
    )


def samples_of(run: Run) -> Samples | None:
    """Those that a run's alignment recorded, if it did."""
    return Samples.load(run.samples_path) if (run.samples_path / "samples.json").is_file() else None


def samples_for(run: Run, method: str) -> Samples | None:
    """The samples that a direction is found in; None for one that needs none.

    Raises:
        NeuroglotError: the run has no samples, or they have no states.
    """
    if method not in SAMPLED:
        return None
    samples = samples_of(run)
    if samples is None or samples.states is None:
        lack = "no samples" if samples is None else "samples without states, as its model has more than one stream"
        raise NeuroglotError(f"{method} is found in samples, and {run.path} has {lack}; see `neuroglot align --help`.")
    return samples


def judge_of(run: Run, settings: JudgeSettings | None) -> Judge | None:
    """Who scores a run's answers, if anyone does; scores are kept in the run."""
    return None if settings is None else Judge(settings, run.steering_path / "judge")


def first_prompts(corpus: Corpus, languages: Sequence[str], limit: int) -> dict[str, list[str]]:
    """The first prompts in each language."""
    return {tag: [text for text, _ in zip(corpus[tag], range(limit), strict=False)] for tag in languages}


def steer_run(run: Run, recording: Recording, settings: SteeringSettings) -> Steered:
    """Ask a run's model in one language, steer it to another, and measure whether it obeys and still makes sense.

    Answers, scores and tables are kept in the run; what is finished is not made again.

    Args:
        run: whose model and neurons.
        recording: the run's.
        settings: what is asked, and how.

    Raises:
        NeuroglotError: what is asked for is not there, which is said before the model is opened; or the judge fails,
            and the answers are kept.
    """
    check_name(settings.words)
    settings.check()
    neurons = run.neurons(settings.method)
    targets = [closest(tag, neurons.languages) or tag for tag in settings.targets or neurons.languages]
    neurons.check_languages(targets)
    samples_for(run, settings.how.method)  # refused before the model is opened
    corpus = load_corpus(settings.prompts, text_column=settings.text_column, language_column=settings.language_column)
    sources = settings.sources or [found for tag in neurons.languages if (found := closest(tag, corpus.languages))]
    if not sources:
        raise NeuroglotError(
            f"{settings.prompts} has prompts in {', '.join(corpus.languages)}, and there are neurons of "
            f"{', '.join(neurons.languages)}; give prompts in a language of the neurons, or name --sources."
        )
    sources = list(dict.fromkeys(sources))
    with_native = list(dict.fromkeys([*sources, *targets])) if settings.search else sources
    asked = corpus.select(with_native)
    for tag in targets if settings.ask else ():
        asking(asked, tag)  # refuses a language that there is no «answer in …» for
    for way in settings.prompting:
        for tag in targets:
            prompted(["?"], sources[0], tag, way)  # as well
    judge = None if settings.relevance == "judge" else judge_of(run, settings.judge)
    prompts = first_prompts(asked, with_native, settings.limit)
    if settings.relevance == "rule":
        distinct_questions({tag: list(asked[tag]) for tag in with_native})  # refuses too few
    said = settings.generation
    check_prompts(run.reader(), chain.from_iterable(prompts.values()), said.tokens, said.chat)
    tried_out = candidates_of(recording, samples_of(run), settings) if settings.search else []
    if settings.search:
        plan_search(prompts, tried_out, targets=targets, sources=sources, budget=settings.budget)
    model = run.load_model()
    run.check(model)
    work = RunAnswers(run, model, recording, neurons, settings.generation, judge, settings.identification)
    how, chosen, tried, written = settings.how, None, None, []
    name = _named(run, settings)
    relevance = _rater(run, model, asked, settings)
    if settings.search:
        best = work.searched(prompts, tried_out, targets, sources, settings, relevance)
        chosen, tried = best.chosen, best.table
        steered = [each for each in best.families.values() if each.condition != "intact"]
        how = steered[0].how if steered else how  # where a prompting alone is best, the best steering beside it
        written.append(_save(run, "steering-search", name, tried))
    answers = _answers(work, asked.select(sources), targets, how, settings)
    written.append(_save(run, "answers", name, answers))  # before a judge may fail
    for rater in (work.judge, relevance):
        if rater is not None:
            answers = rater.rate(answers)
            _save(run, "answers", name, answers)
    off = None
    if settings.off:
        spoken = {tag: texts for tag, texts in prompts.items() if closest(tag, neurons.languages)}
        off = work.judged(work.switched_off(spoken))
        written.append(_save(run, "answers-off", name, off))
    rates = _rates(answers)
    written.append(_save(run, "steering", name, rates.reset_index()))
    scores = scores_of(answers)
    if scores is not None:
        written.append(_save(run, "steering-scores", name, scores.reset_index()))
    with run.measured_with(neurons, settings.method, [_table(run, kind, name) for kind in TABLES]) as manifest:
        manifest.steering[name] = _about(settings, how)
    result = Steered(how, answers, rates, tried, off, _repaired(answers, settings), scores, chosen, written)
    if result.repaired is not None:
        written.append(_save(run, "steering-repair", name, result.repaired.reset_index()))
    return result


def _answers(
    work: RunAnswers, asked: Corpus, targets: Sequence[str], how: Steering, settings: SteeringSettings
) -> pd.DataFrame:
    """Answers in every condition: where prompts ask for their target in words, target by target."""
    groups: Mapping[str | None, Sequence[str]] = {tag: [tag] for tag in targets} if settings.ask else {None: targets}
    tables = []
    for request, some in groups.items():
        corpus = asked if request is None else asking(asked, request, chat=settings.generation.chat)
        prompts = first_prompts(corpus, asked.languages, settings.limit)
        tables.append(work.forced(prompts, some, how, settings.conditions, settings.seeds, settings.prompting))
    return pd.concat(tables, ignore_index=True)


def _rates(answers: pd.DataFrame) -> pd.DataFrame:
    by = ["condition", "source", "target"]
    rates = summary(answers, by)
    if "score" in answers:
        rates["score"] = answers.groupby(by, sort=False)["score"].mean()
    if "relevance" in answers:
        rates["relevance"] = answers.groupby(by, sort=False)["relevance"].mean() / 2
        both = zip(rates["on_target"], rates["relevance"], strict=True)
        rates["steering_score"] = [harmonic_mean(float(lfs), float(relevance)) for lfs, relevance in both]
    return rates


def scores_of(answers: pd.DataFrame) -> pd.DataFrame | None:
    """LFS, relevance and steering score by condition over pairs of different languages; None if nothing says so."""
    crossed = answers[answers["source"] != answers["target"]]
    return steering_scores(crossed) if "relevance" in crossed and len(crossed) else None


def _rater(run: Run, model: Model, asked: Corpus, settings: SteeringSettings) -> Rater | None:
    """Who says what is relevant, if anyone does."""
    if settings.relevance == "judge":
        assert settings.judge is not None
        return judge_of(run, settings.judge.model_copy(update={"rubric": "relevance"}))
    if settings.relevance == "rule":
        questions = {tag: list(asked[tag]) for tag in asked.languages}
        reader = model if settings.reader is None else load_model(settings.reader)
        chat = settings.generation.chat and settings.reader is None
        return LikelihoodRule(reader, questions, chat=chat, directory=run.steering_path / "relevance")
    return None


def _repaired(answers: pd.DataFrame, settings: SteeringSettings) -> pd.DataFrame | None:
    wanting = settings.ask or bool((answers["source"] == answers["target"]).any())
    both = {"intact", "raised"} <= set(settings.conditions)
    return repair(answers, asked=settings.ask) if both and wanting else None


def save_recipes(work: Steered, run: Run, recording: Recording, method: str, folder: Path) -> list[Path]:
    """Write what was measured as a recipe for each target: `TARGET.safetensors`.

    A source is ablated where the search found that best and all prompts are in one other language.

    Raises:
        NeuroglotError: a file cannot be written.
    """
    off = work.chosen is not None and work.chosen.condition == "both"
    samples = samples_of(run)
    written = []
    for target, asked in work.answers.groupby("target", sort=False):
        sources = [tag for tag in asked["source"].unique() if closest(tag, [str(target)]) is None]
        source = str(sources[0]) if off and len(sources) == 1 else None
        recipe = work.how.recipe(recording, run.neurons(method), str(target), source, samples)
        written.append(recipe.save(folder / f"{target}.safetensors"))
    return written


def read_answers(path: Path) -> pd.DataFrame:
    """The table of answers that a run keeps; earlier runs called the condition `arm`."""
    answers = load_table(path, "run the same command again", keep_default_na=False, dtype={"language": str})
    return answers.rename(columns={"arm": "condition"})


def forget_answers(run: Run, manifest: Manifest, method: str) -> None:
    """Drop the tables of answers that a method's neurons steered, since it has found others."""
    for name in [name for name, asked in manifest.steering.items() if asked["neurons"] == method]:
        for kind in TABLES:
            _table(run, kind, name).unlink(missing_ok=True)
        del manifest.steering[name]


def _table(run: Run, kind: str, name: str) -> Path:
    return run.path / "tables" / f"{kind}-{name}.csv"


def _save(run: Run, kind: str, name: str, table: pd.DataFrame) -> Path:
    return save_table(_table(run, kind, name), table)


def _named(run: Run, settings: SteeringSettings) -> str:
    """What the tables of these settings are called; no other settings' are, so that none step on another's.

    The first of a run to have its words for a name has them alone; others have six digits of their digest behind them.
    """
    with run.changing() as manifest:
        taken = manifest.steering.get(settings.words)
        name = settings.words
        if taken is not None and taken.get("digest") != settings.digest:
            name = f"{name}-{settings.digest[:6]}"
        if name not in manifest.steering:  # taken at once, before another process asks
            manifest.steering[name] = _about(settings, settings.how)
    return name


def _about(settings: SteeringSettings, how: Steering) -> dict[str, Any]:
    """How the answers are made, as run.json keeps it."""
    return {
        "prompts": settings.prompts, "limit": settings.limit, "neurons": settings.method, "asked": settings.ask,
        "seeds": settings.seeds, "steering": how.model_dump(mode="json"), "words": how.words(),
        "generation": settings.generation.model_dump(mode="json"),
        "prompting": list(settings.prompting), "identification": settings.identification,
        "relevance": settings.relevance, "reader": settings.reader,
        "judge": None if settings.judge is None else settings.judge.model_dump(mode="json"),
        "digest": settings.digest,
    }  # fmt: skip
