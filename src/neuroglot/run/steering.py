"""Steering in a run: prompts answered in every condition, described, scored by a judge if there is one, and kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.load import BUILT_IN, load_corpus
from neuroglot.corpus.prompts import asking
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.forcing import CONDITIONS, Forced, Prompts, Steering, deactivated, force
from neuroglot.evaluate.steering.judge import Judge, JudgeSettings
from neuroglot.evaluate.steering.search import grid, search
from neuroglot.evaluate.steering.tables import repair
from neuroglot.generation.settings import Generation
from neuroglot.languages.tags import closest
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.settings import Manifest
from neuroglot.storage.names import check_name
from neuroglot.storage.results import digest_of_settings
from neuroglot.storage.tables import load_table, save_table

__all__ = [
    "RunAnswers",
    "Steered",
    "SteeringSettings",
    "first_prompts",
    "forget_answers",
    "judge_of",
    "read_answers",
    "steer_run",
]

TABLES = ("steering-search", "answers", "answers-off", "steering", "steering-repair")
"""What a set of prompts leaves in `tables/`, each as KIND-NAME.csv."""


class SteeringSettings(BaseModel):
    """What is asked, in which conditions, and how answers are written and scored."""

    prompts: str = "openings"
    """questions, openings, or a file or folder of prompts as a corpus is."""
    text_column: str = "text"
    """The column of it that holds the text."""
    language_column: str | None = None
    """The column of it that says the language; by default `language` or `lang`, if there is one."""
    sources: list[str] | None = None
    """Languages to ask in; by default the neurons' that have prompts."""
    targets: list[str] | None = None
    """Languages to answer in; by default the neurons'."""
    method: str = "lape"
    """Whose neurons."""
    how: Steering = Steering()
    """What is done to the target's neurons."""
    search: bool = False
    """Find the best of many settings in place of `how`, on half of the prompts."""
    max_loss: float = Field(1.0, ge=0)
    """Of a search: perplexity may exceed native answers' by this share."""
    ask: bool = False
    """End each prompt with «answer in …» of the target, in its language."""
    conditions: tuple[Forced, ...] = CONDITIONS
    """What is measured; see `evaluate.force`."""
    off: bool = False
    """Also each language's prompts with each language's neurons off; see `evaluate.deactivated`."""
    limit: int = Field(12, ge=1)
    """At most so many prompts a language."""
    seeds: int = Field(1, ge=1)
    """How many random draws of neurons."""
    generation: Generation = Generation()
    """How answers are written."""
    judge: JudgeSettings | None = None
    """Who scores them, if anyone does."""

    @property
    def words(self) -> str:
        """What the answers are called in names of files, as long as no others of the run are called so.

        Raises:
            NeuroglotError: the file of prompts has a name that cannot be part of others.
        """
        method = [] if self.method == "lape" else [self.method]
        return "-".join([check_name(Path(self.prompts).stem), *method, *(["asked"] if self.ask else [])])

    @property
    def digest(self) -> str:
        """Of all that decides the tables: not of how many prompts a forward pass has."""
        said = self.model_dump(mode="json")
        del said["generation"]["batch"]
        if self.prompts not in BUILT_IN and Path(self.prompts).exists():
            said["prompts"] = str(Path(self.prompts).resolve())
        return digest_of_settings(said)


@dataclass
class Steered:
    """What `steer_run` measured.

    Attributes:
        how: the target's neurons were changed; what a search chose, if there was one.
        answers: a row an answer; see `evaluate.force`.
        rates: by condition, source and target; see `evaluate.summary`.
        tried: the table of the search, if there was one.
        off: answers with each language's neurons off, if asked for.
        repaired: see `evaluate.repair`; None where nothing can be repaired.
        written: the tables' files.
    """

    how: Steering
    answers: pd.DataFrame
    rates: pd.DataFrame
    tried: pd.DataFrame | None = None
    off: pd.DataFrame | None = None
    repaired: pd.DataFrame | None = None
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
    """

    run: Run
    model: Model
    recording: Recording
    neurons: NeuronSet
    generation: Generation
    judge: Judge | None = None

    @cached_property
    def cells(self) -> Path:
        """Where answers are kept."""
        return self.run.steering_path / "cells"

    def forced(
        self, prompts: Prompts, targets: Sequence[str], how: Steering, conditions: Sequence[Forced], seeds: int
    ) -> pd.DataFrame:
        """Answers in every condition; see `evaluate.force`."""
        return force(
            self.model, self.recording, self.neurons, prompts, targets=targets, how=how, conditions=conditions,
            seeds=seeds, generation=self.generation, directory=self.cells,
        )  # fmt: skip

    def switched_off(self, prompts: Prompts) -> pd.DataFrame:
        """Answers with each language's neurons off; see `evaluate.deactivated`."""
        return deactivated(self.model, self.neurons, prompts, generation=self.generation, directory=self.cells)

    def searched(self, prompts: Prompts, targets: Sequence[str], max_loss: float) -> tuple[Steering, pd.DataFrame]:
        """The best of many settings, and the table of all; see `evaluate.search`."""
        return search(
            self.model, self.recording, self.neurons, prompts, grid(self.recording.layers), targets=targets,
            max_loss=max_loss, generation=self.generation, directory=self.cells,
        )  # fmt: skip

    def judged(self, answers: pd.DataFrame) -> pd.DataFrame:
        """The answers with their scores, if there is a judge."""
        return answers if self.judge is None else self.judge.rate(answers)


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
    neurons = run.neurons(settings.method)
    targets = [closest(tag, neurons.languages) or tag for tag in settings.targets or neurons.languages]
    neurons.check_languages(targets)
    corpus = load_corpus(settings.prompts, text_column=settings.text_column, language_column=settings.language_column)
    sources = settings.sources or [found for tag in neurons.languages if (found := closest(tag, corpus.languages))]
    if not sources:
        raise NeuroglotError(
            f"{settings.prompts} has prompts in {', '.join(corpus.languages)}, and there are neurons of "
            f"{', '.join(neurons.languages)}; give prompts in a language of the neurons, or name --sources."
        )
    sources = list(dict.fromkeys(sources))
    if settings.search:
        sources = list(dict.fromkeys([*sources, *targets]))
    asked = corpus.select(sources)
    for tag in targets if settings.ask else ():
        asking(asked, tag)  # refuses a language that there is no «answer in …» for
    judge = judge_of(run, settings.judge)
    model = run.load_model()
    run.check(model)
    work = RunAnswers(run, model, recording, neurons, settings.generation, judge)
    how, tried, written = settings.how, None, []
    name = _named(run, settings)
    prompts = first_prompts(asked, sources, settings.limit)
    if settings.search:
        how, tried = work.searched(prompts, targets, settings.max_loss)
        written.append(_save(run, "steering-search", name, tried))
    answers = _answers(work, asked, targets, how, settings)
    written.append(_save(run, "answers", name, answers))  # before a judge may fail
    if judge is not None:
        answers = work.judged(answers)
        _save(run, "answers", name, answers)
    off = None
    if settings.off:
        spoken = {tag: texts for tag, texts in prompts.items() if closest(tag, neurons.languages)}
        off = work.judged(work.switched_off(spoken))
        written.append(_save(run, "answers-off", name, off))
    rates = _rates(answers)
    written.append(_save(run, "steering", name, rates.reset_index()))
    with run.changing() as manifest:
        manifest.steering[name] = _about(settings, how)
    result = Steered(how, answers, rates, tried, off, _repaired(answers, settings), written)
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
        corpus = asked if request is None else asking(asked, request)
        prompts = first_prompts(corpus, asked.languages, settings.limit)
        tables.append(work.forced(prompts, some, how, settings.conditions, settings.seeds))
    return pd.concat(tables, ignore_index=True)


def _rates(answers: pd.DataFrame) -> pd.DataFrame:
    by = ["condition", "source", "target"]
    rates = summary(answers, by)
    if "score" in answers:
        rates["score"] = answers.groupby(by, sort=False)["score"].mean()
    return rates


def _repaired(answers: pd.DataFrame, settings: SteeringSettings) -> pd.DataFrame | None:
    wanting = settings.ask or bool((answers["source"] == answers["target"]).any())
    both = {"intact", "raised"} <= set(settings.conditions)
    return repair(answers, asked=settings.ask) if both and wanting else None


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
        "judge": None if settings.judge is None else settings.judge.model_dump(mode="json"),
        "digest": settings.digest,
    }  # fmt: skip
