"""What the studies share: items named as in the paper, and going on where one was stopped.

A study's directory is a run, so that every other command takes it too, with these beside:

study.json      the settings it was begun with
study/          KEY.json (what was found), KEY*.csv, KEY*.png and KEY*.pdf: an item is a table or figure of the paper
study.html      the page: the paper's words and numbers beside what was measured
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.load import load_corpus
from neuroglot.edit.conditions import Condition
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.figures.style import save_figure
from neuroglot.models.model import Model
from neuroglot.recording.record_samples import record_samples
from neuroglot.run.directory import Run
from neuroglot.run.identification import identify_run
from neuroglot.run.perturbation import perturb_run
from neuroglot.run.recording import languages_to_record, record_run
from neuroglot.run.tasks import measure_and_keep
from neuroglot.storage.atomic import read_json, save_text
from neuroglot.storage.names import check_name, is_name
from neuroglot.storage.results import refuse_differing, save_json
from neuroglot.storage.tables import save_table
from neuroglot.studies.paper import Item, choose, paper
from neuroglot.studies.settings import MeasureSettings, ParallelSettings, StudySettings, TaskSettings

__all__ = ["Finding", "Study", "check_begun", "folder_name", "not_asked", "short_name"]


@dataclass
class Finding:
    """What was measured for an item.

    Attributes:
        said: in sentences.
        agrees: with the paper, by the item's test; None where nothing can be said.
        tables: suffix (`""` for the only one) → table.
        figures: suffix → figure.
    """

    said: list[str]
    agrees: bool | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)


class Study:
    """A paper's experiments on one model and one corpus, in one directory.

    A paper's class has a method for each item, named by its key (`figure_2` for `figure-2`), which gives a `Finding`.
    It asks for what it needs by the properties below, each of which is made once and kept in the directory.

    Args:
        path: the directory; what is finished there is kept.
        settings: of this study.
        workers: processes that share its work; see `Run.workers`.

    Raises:
        NeuroglotError: `path` holds something else, or was begun with other settings.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[StudySettings]]

    def __init__(self, path: str | Path, settings: StudySettings, *, workers: int = 1):
        self.path, self.settings = Path(path), settings
        kept, now = self.path / "study.json", {"study": self.name, **settings.model_dump(mode="json")}
        if kept.is_file():
            before = read_json(kept)
            if before is None:
                raise NeuroglotError(f"{kept} is damaged; choose another --out, or delete {self.path}.")
            refuse_differing(f"{self.path} is a study", self._known(before), now, "choose another --out, or delete it")
        self.run = Run.create(self.path, settings.model, settings.text, settings.record)
        self.run.workers = workers
        save_text(kept, json.dumps(now, indent=2, ensure_ascii=False))
        self._neurons: dict[str, NeuronSet] = {}
        self._identified: dict[str, dict[str, Any]] = {}  # with which settings

    def _known(self, before: dict[str, Any]) -> dict[str, Any]:
        """Settings as an earlier version kept them: what it did not know has been as it is by default."""
        try:
            given = {name: value for name, value in before.items() if name != "study"}
            known = self.Settings.model_validate(given).model_dump(mode="json")
        except ValidationError:
            return before
        return {"study": before.get("study"), **known}

    @property
    def of_model(self) -> str:
        """The model, as titles name it."""
        return short_name(self.settings.model.source)

    def of_each(self, path: str) -> str:
        """A path that the settings of several models share: `{model}` in it is this model, as its folder is called."""
        return path.replace("{model}", folder_name(self.settings.model.source))

    # --- what items ask for -------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> Model:
        """The model, opened when first needed."""
        return self.run.load_model()

    @cached_property
    def text(self) -> tuple[Corpus, Corpus]:
        """The text to record and the text held out."""
        return self.settings.text.load()

    @cached_property
    def recording(self) -> Recording:
        """The pass over the corpus."""
        return record_run(self.run, self.model, self.text[0])

    def record(self) -> Recording:
        """Pass over the corpus unless that was done, so that the run can be reported and gone on with."""
        return self.recording

    def neurons(self, method: str, **settings: Any) -> NeuronSet:
        """A method's neurons, kept in the run under its name; what measured others of that name is dropped."""
        self.record()
        if self._identified.get(method) != settings:
            self._neurons[method] = identify_run(self.run, method, settings)
            self._identified[method] = settings
        return self._neurons[method]

    def perturb(self, method: str, how: MeasureSettings) -> Perturbation:
        """The perplexity-change matrix of a method's neurons, kept in the run as `neuroglot perturb` does."""
        return perturb_run(
            self.run, self.model, method, tokens=how.tokens, block=how.block, seeds=how.seeds, corpus=how.corpus,
            languages=self.settings.text.languages,
        )  # fmt: skip

    def other_corpus(self, corpus: str | None) -> Corpus | None:
        """Another corpus than the study's own, in the study's languages."""
        return None if corpus is None else load_corpus(corpus, languages=self.settings.text.languages)

    def samples(self, how: ParallelSettings) -> Samples:
        """One vector a sample of the parallel corpus."""
        return record_samples(
            self.model, self.other_corpus(how.corpus) or self.text[0], samples=how.samples, max_tokens=how.max_tokens,
            missing="drop", states=self.model.one_stream, directory=self.run.samples_path,
        )  # fmt: skip

    def tasks(self, names: Sequence[str], how: TaskSettings, conditions: Sequence[Condition] = ()) -> pd.DataFrame:
        """Benchmarks, intact and in other conditions, in the papers' shape."""
        asked = how.model_dump(exclude={"names"})
        table = measure_and_keep(self.model, list(names), list(conditions), asked, self.path)
        return table.summary()

    # --- items --------------------------------------------------------------------------------------------------------

    @cached_property
    def paper(self) -> dict[str, Any]:
        """What the paper says."""
        return paper(self.name)

    def chosen(self, only: Iterable[str] | None) -> list[Item]:
        """The items to measure, in the paper's order; see `choose`."""
        return choose(self.paper, only)

    def measure(
        self, only: Iterable[str] | None = None, say: Callable[[str], None] = lambda text: None
    ) -> dict[str, dict[str, Any]]:
        """Measure every item that is not finished; the others are read.

        What cannot be measured here, such as a table of benchmarks without lm-eval, is told with its reason; the rest
        goes on, and it is tried again the next time.

        Args:
            only: keys of items, such as `table-3`; all by default.
            say: called with a sentence as each item begins.

        Returns:
            Key → what `study/KEY.json` holds: `said`, `agrees`, `tables`, `figures`, and `failed`, a reason or None.
        """
        chosen = self.chosen(only)
        for number, item in enumerate(chosen, 1):
            if self.found(item) is not None:
                say(f"{number} of {len(chosen)}: {item.name} is there")
                continue
            say(f"{number} of {len(chosen)}: {item.name}, {item.title}")
            try:
                finding = getattr(self, item.key.replace("-", "_"))()
            except NeuroglotError as error:
                say(f"   not measured: {error}")
                kept: dict[str, Any] = {"said": [], "agrees": None, "tables": {}, "figures": {}, "failed": str(error)}
                save_json(self.path / "study" / f"{item.key}.json", kept)
            else:
                self._keep(item, finding)
                for sentence in finding.said:
                    say(f"   {sentence}")
        return {item.key: done for item in self.paper["items"] if (done := self.found(item, failed=True)) is not None}

    def _keep(self, item: Item, finding: Finding) -> None:
        folder = self.path / "study"
        tables, figures = {}, {}
        for suffix, table in finding.tables.items():
            name = f"{item.key}{suffix and '-'}{suffix}.csv"
            save_table(folder / name, table)
            tables[suffix] = name
        for suffix, figure in finding.figures.items():
            figures[suffix] = save_figure(figure, folder, f"{item.key}{suffix and '-'}{suffix}")[0].name
        agrees = None if finding.agrees is None else bool(finding.agrees)  # pandas' own is no JSON
        kept = {
            "said": finding.said, "agrees": agrees, "tables": tables, "figures": figures, "failed": None,
        }  # fmt: skip
        save_json(folder / f"{item.key}.json", kept)

    def found(self, item: Item, *, failed: bool = False) -> dict[str, Any] | None:
        """What was kept of an item; None if it is not finished, or failed and `failed` is not asked for."""
        kept = read_json(self.path / "study" / f"{item.key}.json")
        if kept is not None and not _names_files(kept):
            return None  # it is measured again
        return kept if kept is not None and (kept.get("failed") is None or failed) else None


def _names_files(kept: dict[str, Any]) -> bool:
    """Whether what is kept of an item names its tables and figures by names of files, and no other paths."""
    parts = [kept.get(part) for part in ("tables", "figures")]
    return all(isinstance(part, dict) and all(map(is_name, part.values())) for part in parts)


def check_begun(settings: StudySettings) -> None:
    """Refuse a model or a text that cannot be opened, before weights are and before anything is written.

    Raises:
        NeuroglotError: the model is not there, cannot be read or has no neurons; or the text is not there or lacks a
            language.
    """
    settings.model.check_source()
    languages_to_record(settings.text)
    settings.model.reader(trust_remote_code=settings.model.trust_remote_code)


def folder_name(source: str) -> str:
    """What a model's folder is called: the end of its name, without a revision.

    Raises:
        NeuroglotError: it is no name of a folder.
    """
    return check_name(Path(source.split("?")[0]).name.removesuffix(".gguf"))


def short_name(source: str) -> str:
    """A model by a name that says nothing of where its file lies: a hub id as it is, of a path the last part."""
    path = Path(source)
    hub = not (path.is_absolute() or path.suffix == ".gguf" or source.startswith("."))
    return source if hub else path.name.removesuffix(".gguf")


def not_asked(what: str) -> NeuroglotError:
    """Why an item was left out: the settings name nothing for it."""
    return NeuroglotError(f"the settings leave it out: name {what} in a copy of the settings file.")
