"""`neuroglot record`: one pass over the corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, checked, err, out, split
from neuroglot.cli.options import CorpusArgument, DeviceOption, DtypeOption, LanguagesOption, ModelArgument, OutOption
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.model import Model
    from neuroglot.run import ModelSettings, RecordSettings, Run, TextSettings


@app.command()
def record(
    model: ModelArgument,
    corpus: CorpusArgument,
    folder: OutOption = None,
    languages: LanguagesOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="Read at most so many tokens of each language.")] = 1_000_000,
    block: Annotated[int, typer.Option(min=2, help="Tokens a block, with BOS.")] = 512,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a forward pass. [default: 1024 on a CPU, 16384 on a GPU]", show_default=False),
    ] = None,
    hold_out: Annotated[int, typer.Option(min=2, help="Keep every n-th document for measuring.")] = 5,
    experts: Annotated[
        int | None,
        typer.Option(min=1, help="Count the activations of so many experts a layer in the same pass; see experts."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    device_map: Annotated[str | None, typer.Option(help="Spread a large model over devices: auto.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")] = False,
) -> None:
    """Read a corpus once and keep the statistics of every neuron, by language.

    Can be stopped and started again with the same command: finished shards are kept.
    """
    from neuroglot.run import ExpertSettings, ModelSettings, RecordSettings, TextSettings

    model_settings = checked(
        ModelSettings,
        source=model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    text = TextSettings(source=corpus, languages=split(languages), text_column=text_column, hold_out=hold_out)
    recording = RecordSettings(tokens=tokens, block=block, batch_tokens=batch_tokens)
    if experts is not None:
        recording.experts = ExpertSettings(experts=experts)
    run, _ = record_run(folder or default_folder(model, corpus), model_settings, text, recording)
    out.print(f"next: neuroglot identify {run.path}")


def default_folder(model: str, corpus: str) -> Path:
    """runs/MODEL-CORPUS."""
    name = "-".join(Path(part.split("?")[0].removeprefix("hf:")).stem for part in (model, corpus))
    return Path("runs") / name


def record_run(
    folder: Path, model_settings: "ModelSettings", text: "TextSettings", recording: "RecordSettings"
) -> "tuple[Run, Model]":
    """Make or reopen the run, and record what is missing."""
    from neuroglot.run import Run

    to_record, _ = text.load()
    if len(to_record.languages) < 2:
        raise NeuroglotError(
            f"{text.source} gives only {to_record.languages[0]}; every method compares languages, so give at least two."
        )
    with err.status(f"opening {model_settings.source} (a GGUF file takes a minute or two the first time)"):
        model = model_settings.load()
    run = Run.create(folder, model_settings, text, recording)
    made = run.record(model, to_record)
    out.print(
        f"recorded {int(made.tokens.sum()):,} tokens in {len(made.languages)} languages: {run.path / 'recording'}"
    )
    return run, model
