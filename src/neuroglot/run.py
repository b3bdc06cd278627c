"""A run: one directory that holds everything made from one model and one corpus.

run.json        what was asked, with every setting: enough to repeat it
recording/      recording.safetensors, plan.json
neurons/        METHOD.safetensors
samples/        samples.json, vectors.npy, states.npy (of a parallel corpus)
experts/        partition.safetensors, recording/, tuned/, pruning.csv
steering/       cells/ (answers, each kept by what it depends on), judge/, recipes
perturbation/   METHOD.json
comparison/     comparison.json, cells/, evidence/, samples/
tasks/          TASK/ROW.json
tables/         *.csv
figures/        *.png, *.pdf
report.html
"""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from neuroglot.corpus import Corpus, load_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.experts import Partition, partition
from neuroglot.files import DRAFT, save_text
from neuroglot.model import Dtype, Model, Quantize, load_model
from neuroglot.neurons import NeuronSet
from neuroglot.recording import Engine, Recording, merge, record

__all__ = ["WITH_EXPERTS", "AlignSettings", "ExpertSettings", "ModelSettings", "RecordSettings", "Run", "TextSettings"]

WITH_EXPERTS = ("active", "activation", "hidden", "magnitude")  # pruning ranks neurons by their magnitude


class ModelSettings(BaseModel):
    """How the model is opened; see `load_model`."""

    source: str
    """A directory, a hub id, a .gguf file, or packaged weights."""
    revision: str | None = None
    """The branch, tag or commit of a hub id."""
    dtype: Dtype = "auto"
    """The type of the weights; auto is float32 on a CPU and the checkpoint's own elsewhere."""
    device: str | None = None
    """Where the model runs; by default a GPU if there is one."""
    device_map: str | None = None
    """How a large model is spread over devices, such as auto."""
    quantize: Quantize | None = None
    """Weights of 8bit or 4bit; needs bitsandbytes."""
    trust_remote_code: bool = False
    """Whether code that comes with the checkpoint may run."""

    def load(self) -> Model:
        """Open it."""
        return load_model(
            self.source,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            device_map=self.device_map,
            quantize=self.quantize,
            trust_remote_code=self.trust_remote_code,
        )


class TextSettings(BaseModel):
    """How the corpus is opened; see `load_corpus`."""

    source: str
    """A directory, a file, hf:DATASET, or starter."""
    languages: list[str] | None = None
    """The languages to keep, in this order; all of them by default."""
    text_column: str = "text"
    """The column that holds the text."""
    hold_out: int = Field(5, ge=2)
    """Every n-th document is not recorded but kept for measuring."""

    def load(self) -> tuple[Corpus, Corpus]:
        """The text to record and the text held out."""
        corpus = load_corpus(self.source, languages=self.languages, text_column=self.text_column)
        return corpus.split(self.hold_out)


class ExpertSettings(BaseModel):
    """How neurons are split into experts, and which are activated; see `experts.partition` and `record`."""

    experts: int = Field(256, ge=1)
    """How many a layer."""
    kind: Literal["parameter", "random", "contiguous"] = "parameter"
    """How they are made."""
    seed: int = 0
    """Of the clustering or the shuffle."""
    top: list[float] = [0.1]
    """The shares of all experts that are activated on a token, each counted on its own."""


class RecordSettings(BaseModel):
    """How the pass is made; see `record`."""

    tokens: int = Field(1_000_000, ge=1)
    """At most so many tokens of each language."""
    block: int = Field(512, ge=2)
    """Tokens a block, with BOS."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU."""
    shard_tokens: int | None = Field(None, ge=2)
    """Tokens a shard; by default 131,072, or a 64th of `tokens` where that is more."""
    experts: ExpertSettings | None = None
    """Count experts in the same pass."""
    examples: int = Field(0, ge=0)
    """Keep so many of each neuron's most active tokens in each language."""


class AlignSettings(BaseModel):
    """How alignment was measured; see `record_samples`, `alignment` and `identify.key_regions`."""

    corpus: str | None = None
    """The parallel corpus; by default what the run recorded."""
    samples: int | None = Field(100, ge=2)
    """At most so many samples."""
    max_tokens: int | None = Field(200, ge=1)
    """Cut a sample after so many tokens."""
    threshold: float = Field(2.0, ge=0)
    """Of the key regions, in standard deviations."""


class Manifest(BaseModel):
    """What `run.json` holds."""

    neuroglot: str
    """The version that made the run."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that decide results."""
    created: str
    """When it was begun (UTC)."""
    model: ModelSettings
    """How the model is opened."""
    text: TextSettings
    """How the corpus is opened."""
    record: RecordSettings
    """How the pass was made."""
    identify: dict[str, dict[str, Any]] = {}
    """Method → its settings."""
    perturb: dict[str, dict[str, Any]] = {}
    """Method → how its neurons were measured."""
    align: AlignSettings | None = None
    """How alignment was measured, if it was."""
    experts: ExpertSettings | None = None
    """How experts were made and counted, if they were."""
    tuned: ModelSettings | None = None
    """The tuned variant whose experts were counted beside the model's, if one was."""
    prune: dict[str, Any] = {}
    """How pruning was measured, if it was."""
    tasks: list[dict[str, Any]] = []
    """What `neuroglot evaluate tasks` was asked, one entry for each time."""
    compare: dict[str, Any] = {}
    """How methods were compared, if they were."""
    steering: dict[str, dict[str, Any]] = {}
    """Prompts → how answers to them were steered and measured."""


def library_version(name: str) -> str:
    """The installed version of a library, or `none`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


class Run:
    """A run directory. Make one with `Run.create`, open one with `Run.open`.

    Attributes:
        path: the directory.
        manifest: what `run.json` holds.
    """

    def __init__(self, path: Path, manifest: Manifest):
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: str | Path, model: ModelSettings, text: TextSettings, recording: RecordSettings) -> "Run":
        """Begin a run in `path`, or go on with the one that is there if it was begun with the same settings.

        Raises:
            NeuroglotError: `path` holds something else, or a run of other settings.
        """
        path = Path(path)
        manifest = Manifest(
            neuroglot=library_version("neuroglot"),
            versions={"python": platform.python_version()}
            | {name: library_version(name) for name in ("torch", "transformers", "datasets", "tokenizers")},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=model,
            text=text,
            record=recording,
        )
        if (path / "run.json").is_file():
            old = cls.open(path)
            for part in ("model", "text", "record"):
                before, now = getattr(old.manifest, part).model_dump(), getattr(manifest, part).model_dump()
                differing = [
                    f"{name} (was {before[name]}, now {now[name]})" for name in now if before[name] != now[name]
                ]
                if differing:
                    raise NeuroglotError(
                        f"{path} is a run with another {'; '.join(differing)}; choose another --out, or delete it."
                    )
            return old
        if path.exists() and (not path.is_dir() or any(item.suffix != DRAFT for item in path.iterdir())):
            raise NeuroglotError(f"{path} exists and is not a run; choose another --out.")
        run = cls(path, manifest)
        run.save()
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run.

        Raises:
            NeuroglotError: `path` is no run, or its run.json is damaged.
        """
        path = Path(path)
        try:
            return cls(path, Manifest.model_validate_json((path / "run.json").read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise NeuroglotError(
                f"{path} is not a run (it has no run.json); make one with `neuroglot record`."
            ) from error
        except (ValidationError, OSError, UnicodeDecodeError) as error:
            raise NeuroglotError(f"{path / 'run.json'} is damaged; record again into another directory.") from error

    def save(self) -> None:
        """Write run.json."""
        save_text(self.path / "run.json", self.manifest.model_dump_json(indent=2))

    # --- what it holds -----------------------------------------------------------------------------------------------

    @classmethod
    def merge(cls, runs: Sequence[str | Path], out: str | Path | None = None) -> tuple["Run", Recording]:
        """Add up the parts that the runs hold in `out`, by default the first of them.

        Raises:
            NeuroglotError: the runs differ in model, text or setting, or a shard is missing; `out` is something else.
        """
        opened = [cls.open(path) for path in runs]
        target = Path(out) if out is not None else opened[0].path
        first = opened[0].manifest
        if not (target / "run.json").is_file():
            run = cls.create(target, first.model, first.text, first.record)
            run.manifest.experts = first.experts
            run.save()
        directories = dict.fromkeys(each.path.resolve() / "recording" for each in opened)
        run = cls.open(target)
        return run, merge(list(directories), run.path / "recording")

    def record(
        self,
        model: Model,
        corpus: Corpus,
        *,
        part: tuple[int, int] = (1, 1),
        engine: Engine | None = None,
        readers: int | None = None,
        progress: bool = True,
    ) -> Recording:
        """Make the recording or a part of it, or go on with it, or read it if it is finished; see `record`."""
        settings = self.manifest.record
        extra: dict[str, Any] = {"part": part, "engine": engine, "readers": readers, "examples": settings.examples}
        if settings.experts is not None:
            extra |= {
                "statistics": WITH_EXPERTS,
                "partition": self._make_partition(model, settings.experts),
                "top": settings.experts.top,
            }
        return self._pass(model, corpus, self.path / "recording", progress, **extra)

    def _pass(self, model: Model, corpus: Corpus, directory: Path, progress: bool, **extra: Any) -> Recording:
        """One pass over the run's text, as its settings say."""
        how = self.manifest.record
        return record(
            model,
            corpus,
            tokens=how.tokens,
            block=how.block,
            batch_tokens=how.batch_tokens,
            shard_tokens=how.shard_tokens,
            directory=directory,
            progress=progress,
            **extra,
        )

    def check(self, model: Model, recording: Recording | None = None) -> None:
        """Refuse a model whose weights are not those that the run recorded.

        Args:
            model: any.
            recording: the run's, if it is open already.

        Raises:
            NeuroglotError: they are not, or there is no finished recording.
        """
        provenance = (recording or self.recording).provenance
        if provenance is not None and provenance.fingerprint != model.fingerprint:
            raise NeuroglotError(
                f"{model.name} is not the model this run recorded (its weights changed since); record again into "
                "another --out."
            )

    @property
    def recording(self) -> Recording:
        """The finished recording."""
        path = self.path / "recording" / "recording.safetensors"
        if not path.is_file():
            raise NeuroglotError(
                f"{self.path} has no finished recording; run the same `neuroglot record` command again."
            )
        return Recording.load(path)

    def record_experts(
        self, model: Model, corpus: Corpus, settings: ExpertSettings, *, progress: bool = True
    ) -> Recording:
        """Split the model's neurons into experts and count on how many tokens of the run's text each is activated.

        Goes on with what is there, if it was begun with the same settings.

        Raises:
            NeuroglotError: the run has experts of other settings.
        """
        if self.manifest.experts not in (None, settings):
            raise NeuroglotError(
                f"{self.path} has experts of other settings ({self.manifest.experts}); repeat those, or delete "
                f"{self.path / 'experts'} and the experts in run.json."
            )
        split = self._make_partition(model, settings)
        if self.manifest.record.experts == settings:
            return self.recording
        extra = {"statistics": ("active", "magnitude"), "partition": split, "top": settings.top}
        return self._pass(model, corpus, self.path / "experts" / "recording", progress, **extra)

    def record_tuned(
        self, settings: ModelSettings, variant: Model, corpus: Corpus, *, progress: bool = True
    ) -> Recording:
        """Count the activations of the run's experts in a tuned variant of its model, on the run's text (§4.4).

        Raises:
            NeuroglotError: the run has counted no experts, has another variant, or the variant has another shape.
        """
        before = self.expert_recording  # says so if there is none
        if self.manifest.tuned not in (None, settings):
            raise NeuroglotError(
                f"{self.path} already has a tuned variant, {self.manifest.tuned.source}; delete "
                f"{self.path / 'experts' / 'tuned'} and `tuned` in run.json to count another."
            )
        if before.provenance is not None and before.provenance.fingerprint == variant.fingerprint:
            raise NeuroglotError(f"{variant.name} has the weights of the run's own model: nothing was tuned.")
        assert self.manifest.experts is not None
        extra = {"statistics": ("active",), "top": self.manifest.experts.top}
        made = self._pass(
            variant,
            corpus,
            self.path / "experts" / "tuned",
            progress,
            partition=self.partition.of_variant(),
            **extra,
        )
        self.manifest.tuned = settings
        self.save()
        return made

    def _make_partition(self, model: Model, settings: ExpertSettings) -> Partition:
        path = self.path / "experts" / "partition.safetensors"
        if not path.is_file():
            partition(model, settings.experts, kind=settings.kind, seed=settings.seed).save(path)
        self.manifest.experts = settings
        self.save()
        return self.partition

    @property
    def partition(self) -> Partition:
        """The experts of the model."""
        return Partition.load(self.path / "experts" / "partition.safetensors")

    @property
    def expert_recording(self) -> Recording:
        """The finished recording that counted experts.

        Raises:
            NeuroglotError: there is none.
        """
        if self.manifest.record.experts is not None:
            return self.recording
        path = self.path / "experts" / "recording" / "recording.safetensors"
        if not path.is_file():
            raise NeuroglotError(f"{self.path} has counted no experts; run `neuroglot experts {self.path}`.")
        return Recording.load(path)

    @property
    def tuned_recording(self) -> Recording:
        """The finished recording of the tuned variant's experts."""
        return Recording.load(self.path / "experts" / "tuned" / "recording.safetensors")

    def neurons_path(self, method: str) -> Path:
        """Where a method's neurons are."""
        return self.path / "neurons" / f"{method}.safetensors"

    def neurons(self, method: str) -> NeuronSet:
        """The neurons that a method found.

        Raises:
            NeuroglotError: it was not run.
        """
        if not self.neurons_path(method).is_file():
            have = ", ".join(self.manifest.identify) or "none"
            raise NeuroglotError(
                f"{self.path} has no neurons of {method} (it has {have}); run `neuroglot identify {self.path} --method "
                f"{method}`."
            )
        return NeuronSet.load(self.neurons_path(method))

    @property
    def samples_path(self) -> Path:
        """Where the samples of a parallel corpus are."""
        return self.path / "samples"

    @property
    def continuations_path(self) -> Path:
        """Where the texts are that the model wrote with regions off."""
        return self.path / "tables" / "continuations.csv"

    @property
    def steering_path(self) -> Path:
        """Where answers, scores and recipes are."""
        return self.path / "steering"

    @property
    def comparison_path(self) -> Path:
        """Where the losses of the comparison of methods are."""
        return self.path / "comparison" / "comparison.json"

    def perturbation_path(self, method: str) -> Path:
        """Where a method's perplexities are."""
        return self.path / "perturbation" / f"{method}.json"
