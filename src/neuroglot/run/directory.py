"""A run: one directory that holds everything made from one model and one corpus.

run.json        what was asked, with every setting: enough to repeat it
recording/      recording.safetensors, plan.json
neurons/        METHOD.safetensors, METHOD heads.safetensors
samples/        samples.json, vectors.npy, states.npy (of a parallel corpus)
experts/        partition.safetensors, recording/, tuned/, pruning.csv
steering/       cells/ (answers, each kept by what it depends on), judge/, recipes
perturbation/   METHOD.json, METHOD heads.json
lens/           lens.safetensors
comparison/     comparison.json, cells/, evidence/, samples/
tasks/          TASK/CONDITION.json
tables/         *.csv
figures/        *.png, *.pdf
report.html
"""

import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from neuroglot import __version__
from neuroglot.errors import NeuroglotError
from neuroglot.identify.units import Units, units_of
from neuroglot.run.settings import (
    Manifest,
    ModelSettings,
    RunRecordSettings,
    TextSettings,
    library_version,
)
from neuroglot.storage.atomic import DRAFT, read_json, save_text
from neuroglot.storage.locks import LOCK, locked
from neuroglot.storage.names import check_inside, check_name
from neuroglot.storage.results import refuse_differing

if TYPE_CHECKING:  # they need torch, and that there is no run should be said at once
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.artifacts.partition import Partition
    from neuroglot.artifacts.recording import Recording
    from neuroglot.models.model import Model
    from neuroglot.models.tokenization import TextReader

__all__ = ["Run", "default_folder"]


def _left_over(item: Path) -> bool:
    """Whether a file is what stopped work leaves in a directory that was to become a run."""
    return item.suffix == DRAFT or item.name == LOCK


def default_folder(model: str, corpus: str) -> Path:
    """Where a run goes that is not told where: runs/MODEL-CORPUS."""
    name = "-".join(Path(part.split("?")[0].removeprefix("hf:")).stem for part in (model, corpus))
    return Path("runs") / name


class Run:
    """A run directory. Make one with `Run.create`, open one with `Run.open`.

    Attributes:
        path: the directory.
        manifest: what `run.json` held when it was last read or changed here.
        trust_remote_code: whether code that comes with the run's checkpoint may run. Whoever creates or opens the run
            says so; what run.json says is a record of what was said then, and no consent.
        workers: how many processes hold the model that `load_model` opens, each on a GPU of its own where there are
            several; 1 is this one alone.
    """

    def __init__(self, path: Path, manifest: Manifest, *, trust_remote_code: bool = False):
        self.path = path
        self.manifest = manifest
        self.trust_remote_code = trust_remote_code
        self.workers = 1

    @classmethod
    def create(cls, path: str | Path, model: ModelSettings, text: TextSettings, recording: RunRecordSettings) -> "Run":
        """Begin a run in `path`, or go on with the one that is there if it was begun with the same settings.

        Raises:
            NeuroglotError: `path` holds something else, or a run of other settings.
        """
        return cls.prepare(path, model, text, recording).begin()

    @classmethod
    def prepare(
        cls,
        path: str | Path,
        model: ModelSettings,
        text: TextSettings,
        recording: RunRecordSettings,
        *,
        extend: bool = False,
    ) -> "Run":
        """What `create` gives, and refuses, before anything is written: `begin` writes it.

        Args:
            path: the directory.
            model: how the model is opened.
            text: how the corpus is opened.
            recording: how the pass is made.
            extend: a finished run of the same settings, but for fewer tokens, is given as it is, to be extended; see
                `extension.extend_run`.

        Raises:
            NeuroglotError: as `create`; or a run that is to be extended is not finished.
        """
        path = Path(path)
        manifest = Manifest(
            neuroglot=__version__,
            versions={"python": platform.python_version()}
            | {name: library_version(name) for name in ("torch", "transformers", "datasets", "tokenizers")},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            model=model,
            text=text,
            record=recording,
        )
        if (path / "run.json").is_file():
            old = cls.open(path, trust_remote_code=model.trust_remote_code)
            before, now = (each.model_dump(include={"model", "text", "record"}) for each in (old.manifest, manifest))
            had = before["record"]["tokens"]
            if more := extend and had < recording.tokens:
                before["record"]["tokens"] = recording.tokens
            fewer = "its tokens can be raised, not lowered; " if had > recording.tokens else ""
            refuse_differing(f"{path} is a run", before, now, f"{fewer}choose another --out, or delete it")
            if more:
                old.check_extensible()
            return old
        if path.exists() and (not path.is_dir() or any(not _left_over(item) for item in path.iterdir())):
            raise NeuroglotError(f"{path} exists and is not a run; choose another --out.")
        return cls(path, manifest, trust_remote_code=model.trust_remote_code)

    def begin(self) -> "Run":
        """Write run.json, if no process has done so."""
        if (self.path / "run.json").is_file():
            return self
        with locked(self.path):
            if not (self.path / "run.json").is_file():
                self.save()
                return self
        was = self.manifest  # another process began it meanwhile
        return self.prepare(self.path, was.model, was.text, was.record)

    @classmethod
    def open(cls, path: str | Path, *, trust_remote_code: bool = False) -> "Run":
        """Open a run.

        Args:
            path: the directory.
            trust_remote_code: whether code that comes with the run's checkpoint may run; see `load_model`.

        Raises:
            NeuroglotError: `path` is no run, or its run.json is damaged.
        """
        path = Path(path)
        try:
            manifest = Manifest.model_validate_json((path / "run.json").read_text(encoding="utf-8"))
            check_inside(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            lacks = "is a file" if path.is_file() else "has no run.json"
            raise NeuroglotError(f"{path} is not a run (it {lacks}); make one with `neuroglot record`.") from error
        except NeuroglotError:  # which is a ValueError, too
            raise
        except ValidationError as error:
            known = [each for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
            if not known:
                raise NeuroglotError(f"{path / 'run.json'} is damaged; record again into another directory.") from error
            name = ".".join(map(str, known[0]["loc"]))
            raise NeuroglotError(
                f"{path / 'run.json'} has a setting that this version does not know ({name}), so it cannot repeat the "
                "run; use the version that made it, or take the setting out."
            ) from error
        except (OSError, ValueError) as error:  # of decoding, of a path with a zero byte
            raise NeuroglotError(f"{path / 'run.json'} is damaged; record again into another directory.") from error
        return cls(path, manifest, trust_remote_code=trust_remote_code)

    @contextmanager
    def changing(self) -> Iterator[Manifest]:
        """The manifest as run.json holds it now, to be changed inside the block and written when it ends well.

        No other process changes it meanwhile, so that what each of them adds stays. Nothing is written where nothing is
        changed.

        Raises:
            NeuroglotError: run.json is gone or damaged, or cannot be written.
        """
        with locked(self.path):
            found = self.open(self.path).manifest
            before = found.model_dump_json()
            yield found
            self.manifest = found
            if found.model_dump_json() != before:
                self.save()

    @contextmanager
    def measured_with(self, neurons: "NeuronSet", method: str, wrote: Iterable[Path]) -> Iterator[Manifest]:
        """`changing`, to say what was measured with a method's neurons.

        Args:
            neurons: those that were measured with.
            method: whose.
            wrote: files that go if other neurons were found meanwhile.

        Raises:
            NeuroglotError: they were, by another command.
        """
        with self.changing() as manifest:
            if self.neurons(method, units_of(method)) != neurons:
                for path in wrote:
                    path.unlink(missing_ok=True)
                raise NeuroglotError(
                    f"Other {units_of(method)} of {method} were found in {self.path} meanwhile; what was measured is "
                    "of the earlier ones, so it was not kept; give the same command again."
                )
            yield manifest

    def save(self) -> None:
        """Write run.json as it is known here; what other processes have added to it is lost (see `changing`)."""
        save_text(self.path / "run.json", self.manifest.model_dump_json(indent=2))

    # --- its model ---------------------------------------------------------------------------------------------------

    def check_model(self) -> None:
        """Refuse a model that is not where it was, or that comes with code which may not run; torch is not imported.

        Raises:
            NeuroglotError: as said.
        """
        self.manifest.model.check_source()
        self.manifest.model.check_consent(self.trust_remote_code)

    def reader(self) -> "TextReader":
        """How the run's model reads text, without its weights.

        Raises:
            NeuroglotError: see `check_model` and `load_model`.
        """
        return self.manifest.model.reader(trust_remote_code=self.trust_remote_code)

    def load_model(self) -> "Model":
        """Open the run's model, and that of its workers when they are first needed.

        Raises:
            NeuroglotError: see `check_model` and `load_model`.
        """
        settings = self.as_recorded(self.manifest.model)
        return settings.load(trust_remote_code=self.trust_remote_code, workers=self.workers)

    def as_recorded(self, model: ModelSettings) -> ModelSettings:
        """How its model is opened, on whatever device; see `ModelSettings.as_begun`."""
        return model.as_begun(self.path / "recording")

    # --- what it holds -----------------------------------------------------------------------------------------------

    def check(self, model: "Model", recording: "Recording | None" = None) -> None:
        """Refuse a model whose weights are not those that the run recorded.

        Args:
            model: any.
            recording: the run's, if it is open already.

        Raises:
            NeuroglotError: they are not, or there is no finished recording.
        """
        origin = (recording or self.recording).provenance
        if origin is not None and origin.fingerprint != model.fingerprint:
            what = "weights, or how many experts a token is given," if model.mixtures else "weights"
            said = f"{model.name} is not the model this run recorded (its {what} changed since)"
            raise NeuroglotError(f"{said}; record again into another --out.")

    def check_recorded(self) -> Path:
        """Where the finished recording is.

        Raises:
            NeuroglotError: there is none.
        """
        path = self.path / "recording" / "recording.safetensors"
        if not path.is_file() or self._of_fewer_tokens(path):
            raise NeuroglotError(
                f"{self.path} has no finished recording; run the same `neuroglot record` command again."
            )
        return path

    def check_extensible(self) -> None:
        """Refuse to raise the tokens of a run whose recording is not finished, or whose settings are a study's.

        Raises:
            NeuroglotError: as said.
        """
        if (self.path / "study").is_dir():
            raise NeuroglotError(f"{self.path} is a study's run, and its settings say how many tokens are recorded.")
        try:
            self.check_recorded()
        except NeuroglotError as error:
            raise NeuroglotError(
                f"{self.path} has not finished recording {self.manifest.record.tokens:,} tokens a language; finish "
                "that first, with the same command as before, and then ask for more."
            ) from error

    def _of_fewer_tokens(self, recording: Path) -> bool:
        """Whether a recording of this run is from before its tokens were raised."""
        plan = read_json(recording.parent / "plan.json") or {}
        settings = plan.get("settings")
        return isinstance(settings, dict) and settings.get("tokens") != self.manifest.record.tokens

    def is_mixture(self) -> bool:
        """Whether the finished recording is of a native mixture of experts.

        Raises:
            NeuroglotError: there is none.
        """
        return self.recording.experts is not None

    def check_experts(self) -> Path:
        """Where the finished recording is that counted experts.

        Raises:
            NeuroglotError: there is none.
        """
        if self.manifest.record.experts is not None:
            return self.check_recorded()
        path = self.path / "experts" / "recording" / "recording.safetensors"
        if not path.is_file():
            if self.native_experts():
                raise NeuroglotError(
                    f"{self.path} is of a native mixture of experts, which is not split into others; its own experts "
                    "are in its recording, under routed."
                )
            raise NeuroglotError(f"{self.path} has counted no experts; run `neuroglot experts {self.path}`.")
        if self._of_fewer_tokens(path):
            raise NeuroglotError(
                f"{self.path} has counted experts on fewer tokens than it has recorded since; run the same "
                "`neuroglot experts` command again, which counts them on the others."
            )
        return path

    def native_experts(self) -> bool:
        """Whether its recording is of a native mixture of experts."""
        with suppress(NeuroglotError):  # without a recording it is not known
            return self.recording.experts is not None
        return False

    def check_neurons(self, method: str, units: Units = "neurons") -> Path:
        """Where the neurons are that a method found; or the heads, where those are asked for.

        Raises:
            NeuroglotError: it was not run, or found heads and neurons are asked for.
        """
        if units_of(method) != units:
            raise NeuroglotError(f"{method} are attention heads, which this does not take; name a method of neurons.")
        path = self.neurons_path(method)
        if not path.is_file():
            have = ", ".join(self.manifest.identify) or "none"
            name = method.removesuffix(" heads")
            how = f"{name} --units heads" if units == "heads" else name
            raise NeuroglotError(
                f"{self.path} has no {units} of {name} (it has {have}); run `neuroglot identify {self.path} --method "
                f"{how}`."
            )
        return path

    @property
    def recording(self) -> "Recording":
        """The finished recording.

        Raises:
            NeuroglotError: there is none.
        """
        from neuroglot.artifacts.recording import Recording

        return Recording.load(self.check_recorded())

    @property
    def partition(self) -> "Partition":
        """The experts of the model."""
        from neuroglot.artifacts.partition import Partition

        return Partition.load(self.path / "experts" / "partition.safetensors")

    @property
    def expert_recording(self) -> "Recording":
        """The finished recording that counted experts.

        Raises:
            NeuroglotError: there is none.
        """
        from neuroglot.artifacts.recording import Recording

        return Recording.load(self.check_experts())

    @property
    def tuned_recording(self) -> "Recording":
        """The finished recording of the tuned variant's experts."""
        from neuroglot.artifacts.recording import Recording

        return Recording.load(self.path / "experts" / "tuned" / "recording.safetensors")

    def neurons_path(self, method: str) -> Path:
        """Where a method's neurons are."""
        return self.path / "neurons" / f"{check_name(method)}.safetensors"

    def neurons(self, method: str, units: Units = "neurons") -> "NeuronSet":
        """The neurons that a method found; or the heads, where those are asked for.

        Raises:
            NeuroglotError: see `check_neurons`.
        """
        from neuroglot.artifacts.neurons import NeuronSet

        return NeuronSet.load(self.check_neurons(method, units))

    @property
    def methods(self) -> list[str]:
        """The methods of which it has neurons."""
        return [name for name in self.manifest.identify if units_of(name) == "neurons"]

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
    def lens_path(self) -> Path:
        """Where what its layers say through the head is."""
        return self.path / "lens" / "lens.safetensors"

    @property
    def comparison_path(self) -> Path:
        """Where the losses of the comparison of methods are."""
        return self.path / "comparison" / "comparison.json"

    def perturbation_path(self, method: str) -> Path:
        """Where a method's perplexities are."""
        return self.path / "perturbation" / f"{check_name(method)}.json"
