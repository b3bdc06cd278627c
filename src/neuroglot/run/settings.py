"""What was asked of a run: every setting, typed, each with its sentence."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator

from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.load import check_corpus, load_corpus
from neuroglot.errors import NeuroglotError, first_line
from neuroglot.models.sources import Bos, Dtype, Quantize, check_source
from neuroglot.progress import status
from neuroglot.recording.settings import PassSettings
from neuroglot.storage.atomic import read_json
from neuroglot.storage.names import Name

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.models.model import Model
    from neuroglot.models.tokenization import TextReader

__all__ = [
    "PLAIN",
    "WITH_EXPERTS",
    "AlignSettings",
    "ExpertSettings",
    "LensSettings",
    "ModelSettings",
    "RunRecordSettings",
    "TextSettings",
]

DEVICE = re.compile("(cpu|cuda|mps|xpu|npu|hpu|meta)(:[0-9]{1,4})?")
"""The devices of torch, which is not imported to check a name; that there is such a device is checked by `load`."""

PLAIN = ("active", "activation", "hidden")
"""The statistics of a recording that was asked for no others."""

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
    """Whether code that comes with the checkpoint was allowed to run. In a file it allows nothing; see `load`."""
    bos: Bos = "auto"
    """What begins every text: auto is the tokenizer's own rule, always the BOS that it names, never nothing."""
    count_first: bool = False
    """Count the first token of a text that nothing stands before."""

    @field_validator("bos", mode="before")
    @classmethod
    def _usual_bos(cls, bos: str | None) -> str:
        return "auto" if bos is None else bos

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str | None) -> str | None:
        if device is not None and not DEVICE.fullmatch(device):
            raise ValueError("takes cpu, cuda, cuda:1, mps, xpu …")
        return device

    def reading_as(self, recorded: "ModelSettings") -> "ModelSettings":
        """The same model, which begins a text as the one that a run recorded, and counts as it does."""
        return self.model_copy(update={"bos": recorded.bos, "count_first": recorded.count_first})

    def check_source(self) -> None:
        """Refuse a source at which no model can be; torch is not imported.

        Raises:
            NeuroglotError: as said.
        """
        check_source(self.source)

    def check_consent(self, trust_remote_code: bool) -> None:
        """Refuse a model that comes with code, unless this call, and no file, says that the code may run.

        Raises:
            NeuroglotError: as said.
        """
        if self.trust_remote_code and not trust_remote_code:
            raise NeuroglotError(
                f"{self.source} comes with code of its own, and no file can allow it to run; if you trust it, add "
                "--trust-remote-code to this command (trust_remote_code=True from Python)."
            )

    def reader(self, *, trust_remote_code: bool = False) -> "TextReader":
        """How it reads text, from tokenizer and config alone; what is wrong with those is said before weights are read.

        Raises:
            NeuroglotError: see `load`.
        """
        self.check_consent(trust_remote_code)
        with status(f"opening the tokenizer of {self.source}"):
            from neuroglot.models.loading import load_reader

            return load_reader(
                self.source,
                revision=self.revision,
                trust_remote_code=self.trust_remote_code,
                bos=self.bos,
                count_first=self.count_first,
            )

    def check_neurons(self, neurons: "NeuronSet", *, trust_remote_code: bool = False) -> None:
        """Refuse neurons of a model of another shape before weights are read, where the config says how many there are.

        Raises:
            NeuroglotError: as said, or see `load`.
        """
        self.check_consent(trust_remote_code)
        from neuroglot.models.loading import load_widths

        widths = load_widths(self.source, revision=self.revision, trust_remote_code=self.trust_remote_code)
        if widths is not None:
            neurons.of_widths(widths)

    def as_begun(self, recording: Path) -> "ModelSettings":
        """The same model, in which `auto` is the precision in which a recording was begun, on whatever device.

        A run that was recorded on a GPU in bfloat16 would otherwise go on in float32 on a CPU, and add up and compare
        numbers that were rounded otherwise.

        Args:
            recording: the directory of the recording.
        """
        settings = (read_json(recording / "plan.json") or {}).get("settings")
        begun = settings.get("dtype") if isinstance(settings, dict) else None
        return self.model_copy(update={"dtype": begun}) if self.dtype == "auto" and begun in get_args(Dtype) else self

    def of_variant(self, source: str, *, trust_remote_code: bool = False) -> "ModelSettings":
        """How a tuned variant is opened: in the precision of this model, whatever it was written in.

        A variant is often tuned and written in float32. Read so, beside a base in bfloat16, it would differ by more
        than what it has learnt.

        Args:
            source: the variant.
            trust_remote_code: see `load`.

        Raises:
            NeuroglotError: this model is not there.
        """
        import torch

        from neuroglot.models.loading import auto_dtype

        dtype, device = self.dtype, self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype == "auto" and (self.device_map is not None or device != "cpu"):
            allowed = trust_remote_code and self.trust_remote_code
            dtype = auto_dtype(self.source, revision=self.revision, trust_remote_code=allowed)
        return self.model_copy(update={"source": source, "revision": None, "dtype": dtype})

    def load(self, *, trust_remote_code: bool = False, workers: int = 1) -> "Model":
        """Open it, and say so, since that can take minutes.

        Args:
            trust_remote_code: run code that comes with the checkpoint, if the settings say that it has some. It is
                never taken from the settings alone, which may come from someone else's file.
            workers: processes that do its work, where more than this one.

        Raises:
            NeuroglotError: the model comes with code that may not run, or see `load_model`.
        """
        self.check_consent(trust_remote_code)
        with status(f"opening {self.source}"):
            from neuroglot.models.loading import load_model

            _check_device(self.device)
            model = load_model(
                self.source,
                revision=self.revision,
                dtype=self.dtype,
                device=self.device,
                device_map=self.device_map,
                quantize=self.quantize,
                trust_remote_code=self.trust_remote_code,
                bos=self.bos,
                count_first=self.count_first,
            )
            if workers > 1:
                from neuroglot.models.workers import Workers

                model.workers = Workers(model, workers)
            return model


class TextSettings(BaseModel):
    """How the corpus is opened; see `load_corpus`."""

    source: str
    """A directory, a file, hf:DATASET, or starter."""
    languages: list[str] | None = None
    """The languages to keep, in this order; all of them by default."""
    text_column: str = "text"
    """The column that holds the text."""
    language_column: str | None = None
    """The column that says the language; by default `language` or `lang`, if there is one."""
    hold_out: int = Field(5, ge=2)
    """Every n-th document is not recorded but kept for measuring."""

    def check_source(self) -> None:
        """Refuse a source at which no corpus can be, and tags of no language; nothing is read.

        Raises:
            NeuroglotError: as said.
        """
        check_corpus(self.source, self.languages)

    def load(self) -> tuple[Corpus, Corpus]:
        """The text to record and the text held out."""
        corpus = load_corpus(
            self.source, languages=self.languages, text_column=self.text_column, language_column=self.language_column
        )
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

    @field_validator("top")
    @classmethod
    def _shares(cls, top: list[float]) -> list[float]:
        if not top or not all(0 < share <= 1 for share in top):
            raise ValueError("takes shares of all experts above 0, up to 1, such as 0.1")
        return top


class RunRecordSettings(PassSettings, extra="forbid"):
    """How a run's pass is made."""

    experts: ExpertSettings | None = None
    """Count experts in the same pass."""
    residual: bool = False
    """Sum the residual stream that leaves each layer, too, for steering by directions."""
    heads: bool = False
    """Sum what each attention head gives, too."""
    own: list[str] = Field(default_factory=list)
    """Keep these statistics too, which packages or scripts have registered."""

    def arguments(self) -> dict[str, Any]:
        """What `record` is to be called with, but for the partition."""
        arguments = {name: getattr(self, name) for name in PassSettings.model_fields}
        if self.experts is not None:
            arguments |= {"statistics": WITH_EXPERTS, "top": self.experts.top}
        if more := [*["residual"] * self.residual, *["heads"] * self.heads, *self.own]:
            arguments["statistics"] = (*arguments.get("statistics", PLAIN), *more)
        return arguments


class AlignSettings(BaseModel):
    """How alignment was measured; see `record_samples`, `alignment` and `identify.key_regions`."""

    corpus: str | None = None
    """The parallel corpus; by default what the run recorded."""
    text_column: str = "text"
    """The column of it that holds the text."""
    language_column: str | None = None
    """The column of it that says the language; by default `language` or `lang`, if there is one."""
    samples: int | None = Field(100, ge=2)
    """At most so many samples."""
    max_tokens: int | None = Field(200, ge=1)
    """Cut a sample after so many tokens."""
    threshold: float = Field(2.0, ge=0)
    """Of the key regions, in standard deviations."""

    def load(self, recorded: TextSettings) -> Corpus:
        """The parallel corpus, which may be what was recorded."""
        if self.corpus is None:
            return recorded.load()[0]
        return load_corpus(
            self.corpus, parallel=True, text_column=self.text_column, language_column=self.language_column
        )


class LensSettings(BaseModel):
    """How the layers were read through the head; see `evaluate.lens`."""

    tokens: int = Field(10_000, ge=1)
    """At most so many held-out tokens of each language."""
    block: int | None = Field(None, ge=2)
    """Tokens a block; by default the longest of 512, 256, … 32 that every language fills four times."""
    top: int = Field(10, ge=1)
    """How many of the likeliest tokens are looked at."""
    counted: int = Field(200_000, ge=1)
    """Tokens of each language, of the text that was recorded, that say whose each token is."""
    share: float = Field(0.8, gt=0.5, le=1)
    """From which share over the languages a token is one language's own."""
    least: int = Field(2, ge=1)
    """A token counted less often in all is of no language."""


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
    record: RunRecordSettings
    """How the pass was made."""
    identify: dict[Name, dict[str, Any]] = {}
    """Method → its settings."""
    perturb: dict[Name, dict[str, Any]] = {}
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
    lens: LensSettings | None = None
    """How its layers were read through the head, if they were."""
    pair: dict[str, Any] = {}
    """How it was compared with another run of the same shape, if it was."""
    steering: dict[Name, dict[str, Any]] = {}
    """Prompts → how answers to them were steered and measured."""


def _check_device(device: str | None) -> None:
    """Refuse a device that this machine has not, or that torch was not built for."""
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise NeuroglotError(
            f"There is no device {device} here ({first_line(error)}); choose another --device."
        ) from error


def library_version(name: str) -> str:
    """The installed version of a library, or `none`."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
