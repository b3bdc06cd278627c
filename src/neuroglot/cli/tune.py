"""`neuroglot tune`: one tuned model a language, for parameter variation."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, checked, out, split
from neuroglot.cli.options import DeviceOption, DtypeOption, LanguagesOption, ModelArgument


@app.command()
def tune(
    model: ModelArgument,
    instructions: Annotated[
        str,
        typer.Argument(
            help="A directory of {language}.jsonl files of pairs (Alpaca or chat), a .jsonl file with a language "
            "column, hf:DATASET; or starter, the built-in pairs."
        ),
    ] = "starter",
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where the tuned models go, one folder a language.")
    ] = Path("tuned"),
    languages: LanguagesOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times through the pairs.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Constant.")] = 1e-5,
    adapter: Annotated[
        int | None,
        typer.Option(help="Train a LoRA adapter of this rank instead of all weights; needs peft.", show_default=False),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.", show_default=False)] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Pairs a forward pass.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="Cut a pair after so many tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the order of the pairs.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Tune a model on instructions in one language, for each language. The defaults are the LAPE paper's.

    Can be stopped and started again with the same command: finished languages and epochs are kept.
    """
    from neuroglot.corpus.instructions import load_instructions
    from neuroglot.run.settings import ModelSettings

    how = checked(ModelSettings, source=model, dtype=dtype, device=device)
    how.check_source()
    pairs = load_instructions(instructions, split(languages))
    from neuroglot.edit.training import TuneSettings
    from neuroglot.edit.tuning import tune as tune_one

    settings = checked(
        TuneSettings,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        at_once=at_once,
        max_tokens=max_tokens,
        adapter=adapter,
        steps=steps,
        seed=seed,
    )
    for tag, of_language in pairs.items():
        loaded = how.load()  # again for each: tuning changes it
        path = tune_one(loaded, of_language, folder / tag, settings, language=tag)
        out.print(f"wrote {path}")
    out.print(f"next: neuroglot compare RUN --tuned {folder}")
