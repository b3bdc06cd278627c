"""Arguments and options that several commands take, each described once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import check_writable

if TYPE_CHECKING:
    from neuroglot.identify.units import Units


def judge_reading(reading: str) -> str:
    """Refuse another way to read a judge before anything is opened; the callback of the option.

    Raises:
        NeuroglotError: as said.
    """
    if reading not in ("reply", "expected"):
        raise NeuroglotError(f"--judge-reading takes reply or expected, not {reading!r}.")
    return reading


def writable(path: Path | None) -> Path | None:
    """Refuse a place that cannot be written before anything is computed; the callback of an option that names one.

    Raises:
        NeuroglotError: as said.
    """
    if path is not None:
        check_writable(path)
    return path


def writable_file(path: Path | None) -> Path | None:
    """The same for an option that names a file.

    Raises:
        NeuroglotError: it cannot be written, or is a directory.
    """
    if (place := writable(path)) is not None and place.is_dir():
        raise NeuroglotError(f"{path} is a directory; give the name of a file.")
    return path


def writable_folder(path: Path | None) -> Path | None:
    """The same for an option that names a directory, which may be there.

    Raises:
        NeuroglotError: it cannot be written, or is a file.
    """
    if (place := writable(path)) is not None and place.is_file():  # a name too long for the disk raises in is_file
        raise NeuroglotError(f"{path} is a file; give a directory.")
    return path


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A directory, a Hugging Face hub id, a .gguf file, or packaged weights: gemma3-270m, smollm2-135m."
    ),
]
CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="A directory of {language}.txt files; a .jsonl, .csv, .tsv or .parquet file with a language column or one "
        "column a language; hf:DATASET; or starter, the built-in corpus."
    ),
]
TextColumnOption = Annotated[str, typer.Option(help="The column that holds the text.")]
LanguageColumnOption = Annotated[
    str | None,
    typer.Option(help="The column that says the language. [default: language or lang]", show_default=False),
]
RunArgument = Annotated[
    Path, typer.Argument(help="The run directory that `neuroglot record` made.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", callback=writable, help="The run directory. [default: runs/MODEL-CORPUS]", show_default=False
    ),
]
LanguagesOption = Annotated[
    str | None,
    typer.Option("--languages", "-l", help="Only these, such as en,fr,zh. [default: all]", show_default=False),
]
MethodOption = Annotated[
    str,
    typer.Option("--method", "-m", help="Which neurons: a method of `neuroglot identify --help`."),
]
UnitsOption = Annotated[
    str, typer.Option(help="neurons; or heads, of the attentions, in a run that was recorded with --heads.")
]
HeldOutTokens = Annotated[int, typer.Option(min=1, help="Measure at most so many held-out tokens of each language.")]
HeldOutBlock = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Tokens a block. [default: the longest of 512, 256, … 32 that every language fills four times]",
        show_default=False,
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="How many random rows to measure for the baseline.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1, mps … [default: a GPU if there is one]", show_default=False),
]
JudgeUrlOption = Annotated[
    str | None,
    typer.Option(
        help="With --judge: its endpoint, or `local`: it is a model that is opened here, as record takes it. "
        "[default: OPENAI_BASE_URL; the key is OPENAI_API_KEY]",
        show_default=False,
    ),
]
JudgeReadingOption = Annotated[
    str,
    typer.Option(
        callback=judge_reading,
        help="With --judge: its score is the rating in its reply, or `expected`: the mean of all ratings by their "
        "likelihood, with --judge-url local.",
    ),
]
JudgePerMinuteOption = Annotated[
    float, typer.Option(min=0.001, help="With --judge behind an endpoint: at most so many requests a minute.")
]
WorkersOption = Annotated[
    int,
    typer.Option(min=1, help="Processes that share the work, each with the model: on a GPU of its own if there are."),
]
BosOption = Annotated[
    str | None,
    typer.Option(
        help="What begins a text: auto (the tokenizer's own rule), always (the BOS it names), never. [default: as the "
        "run has it that is given, else auto]",
        show_default=False,
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code that comes with the checkpoint. No run directory and no settings file can say so instead.",
    ),
]
SteerOption = Annotated[
    str,
    typer.Option(
        "--steer",
        help="What is done to the target's neurons: replace, raise, add, difference or scale; or of the "
        "residual stream diffmean, probe, lda or sparse.",
    ),
]
SiteOption = Annotated[str, typer.Option(help="Where: activation or hidden.")]
StrengthOption = Annotated[float, typer.Option(help="Times the language's mean; the factor itself for scale.")]
LayersOption = Annotated[
    str | None, typer.Option(help="Only these layers, from 1: 1-3,16-18. [default: all]", show_default=False)
]
WhenOption = Annotated[str, typer.Option(help="On which tokens: prompt, generated or both.")]


def units_named(units: str) -> "Units":
    """What `--units` names.

    Raises:
        NeuroglotError: it is neither.
    """
    if units == "heads":
        return "heads"
    if units != "neurons":
        raise NeuroglotError(f"--units takes neurons or heads, not {units!r}.")
    return "neurons"
