"""`neuroglot tune`: one tuned model a language, for parameter variation or for its own sake."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from neuroglot.cli.app import app, checked, out, split
from neuroglot.cli.options import (
    DeviceOption,
    DtypeOption,
    LanguageColumnOption,
    LanguagesOption,
    ModelArgument,
    TextColumnOption,
    writable_folder,
)
from neuroglot.cli.unused import refuse_unused, written
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import check_file


@app.command()
def tune(
    context: typer.Context,
    model: ModelArgument,
    instructions: Annotated[
        str,
        typer.Argument(
            help="A directory of {language}.jsonl files of pairs (Alpaca or chat), a .jsonl file with a language "
            "column, hf:DATASET; or starter, the built-in pairs."
        ),
    ] = "starter",
    folder: Annotated[
        Path,
        typer.Option("--out", "-o", callback=writable_folder, help="Where the tuned models go, one folder a language."),
    ] = Path("tuned"),
    languages: LanguagesOption = None,
    text: Annotated[
        str | None,
        typer.Option(help="Plain text in place of instructions: a corpus as `record` takes it.", show_default=False),
    ] = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="With --text: at most so many of each language.")] = 1_000_000,
    block: Annotated[int, typer.Option(min=8, help="With --text: tokens a block.")] = 512,
    only: Annotated[
        Path | None,
        typer.Option(
            help="Train each language's neurons only, of a file such as RUN/neurons/lape.safetensors; or `routers`, "
            "those of a mixture of experts. No other weight moves.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Learn this model's distribution, too, such as the intact model's.", show_default=False),
    ] = None,
    distil: Annotated[float, typer.Option(min=0, max=1, help="With --teacher: its share of the loss.")] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the examples.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Pairs or blocks a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="At its highest.")] = 1e-5,
    schedule: Annotated[str, typer.Option(help="How the rate goes on: constant or cosine.")] = "constant",
    warm_up: Annotated[float, typer.Option(help="The share of the steps in which the rate rises from 0.")] = 0.0,
    save_every: Annotated[
        int | None,
        typer.Option(min=0, help="Keep the state after so many steps. [default: after each epoch]", show_default=False),
    ] = None,
    adapter: Annotated[
        int | None,
        typer.Option(help="Train a LoRA adapter of this rank instead of all weights; needs peft.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.", show_default=False)] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Pairs or blocks a forward pass.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Cut a pair after so many tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the order of the examples.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Tune a model on instructions or plain text in one language, for each language. The defaults are the LAPE paper's.

    With --only it trains a language's neurons alone. Can be stopped and started again with the same command: finished
    languages and epochs are kept.
    """
    from neuroglot.corpus.instructions import load_instructions
    from neuroglot.corpus.load import load_corpus
    from neuroglot.run.settings import ModelSettings

    if text is None:
        refuse_unused(context, "without --text", "tokens", "block", "text_column", "language_column")
    elif written(context, "instructions"):
        raise NeuroglotError(f"--text is read in place of instructions; leave out {instructions!r}, or --text.")
    else:
        refuse_unused(context, "with --text", "max_tokens")
    if teacher is None:
        refuse_unused(context, "without --teacher", "distil")
    how = checked(ModelSettings, source=model, dtype=dtype, device=device)
    how.check_source()
    teaches = None if teacher is None else checked(ModelSettings, source=teacher, device=device)
    if teaches is not None:
        teaches.check_source()
    if only is not None and adapter is not None:
        raise NeuroglotError("An adapter has weights of its own; give --only or --adapter.")
    routers = only == Path("routers")
    if only is not None and not routers:
        check_file(only, "give the neurons that `neuroglot identify` wrote")
    examples = load_instructions(instructions, split(languages)) if text is None else None
    corpus = None
    if text is not None:
        corpus = load_corpus(text, languages=split(languages), text_column=text_column, language_column=language_column)
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.edit.training import TuneSettings
    from neuroglot.run.tuning import tune_languages

    settings = checked(
        TuneSettings, epochs=epochs, batch=batch, learning_rate=learning_rate, schedule=schedule, warm_up=warm_up,
        at_once=at_once, max_tokens=max_tokens, adapter=adapter, distil=distil, steps=steps, save_every=save_every,
        seed=seed,
    )  # fmt: skip
    part: NeuronSet | Literal["routers"] | None = "routers" if routers else None
    if only is not None and not routers:
        part = NeuronSet.load(only)
        how.check_neurons(part)
    given = corpus if examples is None else examples
    assert given is not None
    if corpus is not None:
        from neuroglot.tokens.packing import check_fills

        check_fills(how.reader(), corpus, block, tokens)  # before weights are opened
    for path in tune_languages(how, given, folder, settings, tokens=tokens, block=block, only=part, teacher=teaches):
        out.print(f"wrote {path}")
    out.print(f"next: neuroglot compare RUN --tuned {folder}")
