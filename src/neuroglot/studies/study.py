"""What the studies share: settings, items named as in the paper, and going on where one was stopped.

A study's directory is a run, so that every other command takes it too, with these beside:

study.json      the settings it was begun with
study/          KEY.json (what was found), KEY*.csv, KEY*.png and KEY*.pdf: an item is a table or figure of the paper
study.html      the page: the paper's words and numbers beside what was measured
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, Field, ValidationError

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.load import load_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.perturbation import Perturbation, RandomRow, perturb
from neuroglot.evaluate.benchmarks.table import measure_tasks
from neuroglot.figures.style import save_figure
from neuroglot.identify.registry import METHODS
from neuroglot.models.model import Model
from neuroglot.recording.record_samples import record_samples
from neuroglot.run.directory import Run
from neuroglot.run.recording import record_run
from neuroglot.run.settings import ModelSettings, RecordSettings, TextSettings
from neuroglot.run.tasks import keep_tables
from neuroglot.storage.atomic import read_json, save_text

__all__ = [
    "Finding",
    "Item",
    "MeasureSettings",
    "ParallelSettings",
    "Study",
    "StudySettings",
    "TaskSettings",
    "paper",
    "preset",
    "read_settings",
]

Preset = Literal["quick", "paper"]


class MeasureSettings(BaseModel, extra="forbid"):
    """How perplexity is measured; see `evaluate.perturb`."""

    corpus: str | None = None
    """Held-out text; by default what was held out of the corpus."""
    tokens: int = Field(1_000_000, ge=1)
    """At most so many tokens of each language."""
    block: int | None = Field(None, ge=2)
    """Tokens a block; by default as long as every language fills four times."""
    seeds: int = Field(3, ge=1)
    """How many random rows."""


class ParallelSettings(BaseModel, extra="forbid"):
    """The parallel corpus and how it is read; see `record_samples`."""

    corpus: str | None = None
    """A parallel corpus; by default the study's own, if it is one."""
    samples: int = Field(100, ge=2)
    """At most so many samples."""
    max_tokens: int | None = Field(200, ge=1)
    """Cut a sample after so many tokens."""


class TaskSettings(BaseModel, extra="forbid"):
    """Benchmarks; see `evaluate.measure_tasks`."""

    names: list[str] = []
    """Tasks of the lm-evaluation-harness, each ending with its language; none, and nothing is measured."""
    limit: int | None = Field(None, ge=1)
    """Only so many items of each."""
    fewshot: int | None = Field(None, ge=0)
    """Examples before each question; by default the task's."""
    data_dir: str | None = None
    """Local data instead of the hub's."""


class StudySettings(BaseModel, extra="forbid"):
    """What every study is told."""

    model: ModelSettings
    """The model, and how it is opened."""
    text: TextSettings
    """The corpus, and how it is opened."""
    record: RecordSettings
    """How the pass over it is made."""


@dataclass(frozen=True)
class Item:
    """A table or figure of a paper.

    Attributes:
        key: `table-3` or `figure-2`; `--only` takes it, and files are named by it.
        name: as the paper calls it.
        title: what it is about.
        section: where it is.
        says: the paper's finding, in our words.
        test: when what was measured counts as agreeing.
        numbers: the paper's own, as CSV; empty if it gives none that can be copied.
        of: whose numbers they are.
        also: keys of tables and figures that are this one for another model of the paper.
    """

    key: str
    name: str
    title: str
    section: str
    says: str
    test: str
    numbers: str = ""
    of: str = ""
    also: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame | None:
        """The paper's numbers, as it prints them."""
        return pd.read_csv(StringIO(self.numbers), keep_default_na=False, dtype=str) if self.numbers else None


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


def paper(name: str) -> dict[str, Any]:
    """What a paper says: its `title`, `authors`, `venue`, `url`, and `items`."""
    said = tomllib.loads((files("neuroglot.studies") / "papers" / f"{name}.toml").read_text(encoding="utf-8"))
    return {**said, "items": [Item(**{**item, "also": tuple(item.get("also", ()))}) for item in said["items"]]}


def preset(study: str, name: str) -> str:
    """The text of a settings file that comes with Neuroglot, to be copied and edited.

    Raises:
        NeuroglotError: there is none of this name.
    """
    file = files("neuroglot.studies") / "presets" / f"{study}-{name}.toml"
    if not file.is_file():
        raise NeuroglotError(f"There is no preset {name} of {study}; presets are quick and paper.")
    return file.read_text(encoding="utf-8")


def read_settings(
    kind: type[StudySettings], text: str, name: str, instead: Mapping[str, Mapping[str, Any]] | None = None
) -> StudySettings:
    """Settings from the text of a TOML file.

    Args:
        kind: whose.
        text: of the file.
        name: of the file, for errors.
        instead: section → values that replace the file's, such as `{"model": {"source": …}}`.

    Raises:
        NeuroglotError: it is no TOML, or a setting is missing, unknown or out of range; the sentence names it.
    """
    try:
        said = tomllib.loads(text)
        for section, values in (instead or {}).items():
            said[section] = {**said.get(section, {}), **values}
        return kind(**said)
    except tomllib.TOMLDecodeError as error:
        raise NeuroglotError(f"{name} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise NeuroglotError(f"{name}, {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


class Study:
    """A paper's experiments on one model and one corpus, in one directory.

    A paper's class has a method for each item, named by its key (`figure_2` for `figure-2`), which gives a `Finding`.
    It asks for what it needs by the properties below, each of which is made once and kept in the directory.

    Args:
        path: the directory; what is finished there is kept.
        settings: of this study.

    Raises:
        NeuroglotError: `path` holds something else, or was begun with other settings.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[StudySettings]]

    def __init__(self, path: str | Path, settings: StudySettings):
        self.path, self.settings = Path(path), settings
        kept, now = self.path / "study.json", {"study": self.name, **settings.model_dump(mode="json")}
        if kept.is_file():
            before = read_json(kept)
            if before is None:
                raise NeuroglotError(f"{kept} is damaged; choose another --out, or delete {self.path}.")
            differing = [f"{name} (was {before.get(name)}, now {now.get(name)})" for name in sorted({*before, *now})
                         if before.get(name) != now.get(name)]  # fmt: skip
            if differing:
                raise NeuroglotError(
                    f"{self.path} is a study with other settings: {'; '.join(differing)}; choose another --out, or "
                    "delete it."
                )
        self.run = Run.create(self.path, settings.model, settings.text, settings.record)
        save_text(kept, json.dumps(now, indent=2, ensure_ascii=False))
        self._neurons: dict[str, NeuronSet] = {}

    # --- what items ask for -------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> Model:
        """The model, opened when first needed."""
        return self.settings.model.load()

    @cached_property
    def text(self) -> tuple[Corpus, Corpus]:
        """The text to record and the text held out."""
        return self.settings.text.load()

    @cached_property
    def recording(self) -> Recording:
        """The pass over the corpus."""
        return record_run(self.run, self.model, self.text[0])

    def neurons(self, method: str, **settings: Any) -> NeuronSet:
        """A method's neurons, kept in the run under its name."""
        if method not in self._neurons:
            found = METHODS[method](self.recording, **settings)
            found.save(self.run.neurons_path(method))
            self.run.manifest.identify[method] = settings
            self.run.save()
            self._neurons[method] = found
        return self._neurons[method]

    def perturbation(
        self,
        neurons: NeuronSet,
        file: Path,
        how: MeasureSettings,
        *,
        model: Model | None = None,
        random_row: RandomRow = "largest",
        matched: bool = False,
        seeds: int | None = None,
    ) -> Perturbation:
        """The perplexity-change matrix of a set of neurons, its rows kept in `file` as they are measured."""
        return perturb(
            model or self.model,
            self.opened(how.corpus) or self.text[1],
            neurons,
            tokens=how.tokens,
            block=how.block,
            seeds=how.seeds if seeds is None else seeds,
            random_row=random_row,
            matched=matched,
            resume=file,
        )

    def perturb(self, method: str, neurons: NeuronSet, how: MeasureSettings, **settings: Any) -> Perturbation:
        """The same for a method of the run, kept in the run's own place so that its report shows it."""
        result = self.perturbation(neurons, self.run.perturbation_path(method), how, **settings)
        self.run.manifest.perturb[method] = {
            "corpus": how.corpus or "held out", "tokens": how.tokens, "block": result.block, "seeds": how.seeds,
        }  # fmt: skip
        self.run.save()
        return result

    def opened(self, corpus: str | None) -> Corpus | None:
        """Another corpus than the study's own, in the study's languages."""
        return None if corpus is None else load_corpus(corpus, languages=self.settings.text.languages)

    def samples(self, how: ParallelSettings) -> Samples:
        """One vector a sample of the parallel corpus."""
        return record_samples(
            self.model, self.opened(how.corpus) or self.text[0], samples=how.samples, max_tokens=how.max_tokens,
            missing="drop", directory=self.run.samples_path,
        )  # fmt: skip

    def tasks(self, names: Sequence[str], how: TaskSettings, changes: Sequence[Any] = ()) -> pd.DataFrame:
        """Benchmarks, intact and changed, in the papers' shape."""
        table = measure_tasks(
            self.model, names, changes, limit=how.limit, fewshot=how.fewshot, data_dir=how.data_dir,
            directory=self.path / "tasks",
        )  # fmt: skip
        keep_tables(self.path, table)
        return table.summary()

    # --- items --------------------------------------------------------------------------------------------------------

    @cached_property
    def paper(self) -> dict[str, Any]:
        """What the paper says."""
        return paper(self.name)

    def chosen(self, only: Iterable[str] | None) -> list[Item]:
        """The items to measure, in the paper's order.

        Raises:
            NeuroglotError: the paper has no item of such a name.
        """
        items: list[Item] = self.paper["items"]
        if only is None:
            return items
        wanted = [name.strip().lower().replace(" ", "-") for name in only]
        known = [name for item in items for name in (item.key, *item.also)]
        if unknown := [name for name in wanted if name not in known]:
            raise NeuroglotError(f"{self.name} has no {unknown[0]}; it has {', '.join(known)}.")
        return [item for item in items if {item.key, *item.also} & set(wanted)]

    def measure(
        self, only: Iterable[str] | None = None, say: Callable[[str], None] = lambda text: None
    ) -> dict[str, dict[str, Any]]:
        """Measure every item that is not finished; the others are read.

        What cannot be measured here, such as a table of benchmarks without lm-eval, is told with its reason; the rest
        goes on, and it is tried again the next time.

        Args:
            only: keys of items, such as `table-3`; all by default.
            say: told of each item as it begins.

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
                save_text(self.path / "study" / f"{item.key}.json", json.dumps(kept, ensure_ascii=False, indent=1))
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
            save_text(folder / name, table.to_csv(index=False, lineterminator="\n"))
            tables[suffix] = name
        for suffix, figure in finding.figures.items():
            figures[suffix] = save_figure(figure, folder, f"{item.key}{suffix and '-'}{suffix}")[0].name
        kept = {
            "said": finding.said, "agrees": finding.agrees, "tables": tables, "figures": figures, "failed": None,
        }  # fmt: skip
        save_text(folder / f"{item.key}.json", json.dumps(kept, ensure_ascii=False, indent=1))

    def found(self, item: Item, *, failed: bool = False) -> dict[str, Any] | None:
        """What was kept of an item; None if it is not finished, or failed and `failed` is not asked for."""
        kept = read_json(self.path / "study" / f"{item.key}.json")
        return kept if kept is not None and (kept.get("failed") is None or failed) else None


def not_asked(what: str) -> NeuroglotError:
    """Why an item was left out: the settings name nothing for it."""
    return NeuroglotError(f"the settings leave it out: name {what} in a copy of the settings file.")
