"""The settings of a study, read from a TOML file, and the files that come with Neuroglot."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from neuroglot.errors import NeuroglotError
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

__all__ = ["MeasureSettings", "ParallelSettings", "StudySettings", "TaskSettings", "preset", "read_settings"]


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
    batch_size: int = Field(8, ge=1)
    """Requests a forward pass: more is faster on a GPU, and takes the more memory the larger the vocabulary is."""


class StudySettings(BaseModel, extra="forbid"):
    """What every study has settings for."""

    model: ModelSettings
    """The model, and how it is opened."""
    text: TextSettings
    """The corpus, and how it is opened."""
    record: RunRecordSettings
    """How the pass over it is made."""


def preset(study: str, name: str) -> str:
    """The text of a settings file that comes with Neuroglot, to be copied and edited.

    Raises:
        NeuroglotError: there is none of this name.
    """
    folder = files("neuroglot.studies") / "presets"
    file = folder / f"{study}-{name}.toml"
    if not file.is_file():
        if not (folder / f"{study}-quick.toml").is_file():
            raise NeuroglotError(f"There is no study {study}; studies are lape, babel and lingua-franca.")
        raise NeuroglotError(f"There is no preset {name} of {study}; presets are quick, evidence and paper.")
    return file.read_text(encoding="utf-8")


def read_settings(
    kind: type[StudySettings],
    text: str,
    name: str,
    instead: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    trust_remote_code: bool = False,
) -> StudySettings:
    """Settings from the text of a TOML file.

    Args:
        kind: whose.
        text: of the file.
        name: of the file, for errors.
        instead: section → values that replace the file's, such as `{"model": {"source": …}}`.
        trust_remote_code: whether code that comes with the checkpoint may run, if the file says that it has some. A
            file alone allows nothing.

    Raises:
        NeuroglotError: it is no TOML, a setting is missing, unknown or out of range (the sentence names it), or the
            model comes with code that may not run.
    """
    try:
        said = tomllib.loads(text)
        for section, values in (instead or {}).items():
            said[section] = {**said.get(section, {}), **values}
        settings = kind(**said)
    except tomllib.TOMLDecodeError as error:
        raise NeuroglotError(f"{name} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise NeuroglotError(f"{name}, {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error
    settings.model.check_consent(trust_remote_code)
    return settings
