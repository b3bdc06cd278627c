"""`neuroglot evaluate confusion`: do answers stay in their language, line by line and word by word."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import checked, out, print_table, share
from neuroglot.cli.evaluate import evaluate
from neuroglot.cli.options import DeviceOption, DtypeOption, TrustOption, writable_file
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import check_file

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd

    from neuroglot.run.settings import ModelSettings


@evaluate.command()
def confusion(
    context: typer.Context,
    completions: Annotated[
        Path,
        typer.Argument(
            help="A table of answers (.csv, .tsv, .jsonl, .parquet; .gz too) with the columns completion (or answer) "
            "and language, and where there are any task, model and source."
        ),
    ],
    language: Annotated[
        str | None,
        typer.Option("--language", "-l", help="The language that all of them should be in.", show_default=False),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            help="The column of the answers. [default: completion, answer, response or text]", show_default=False
        ),
    ] = None,
    language_column: Annotated[
        str | None,
        typer.Option(
            help="The column that says their language. [default: language, target or lang]", show_default=False
        ),
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option(
            help="English words, one a line, such as the benchmark's own list. [default: a packaged list]",
            show_default=False,
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=writable_file, help="Write the rates to this .csv too.", show_default=False
        ),
    ] = None,
    starts: Annotated[
        Path | None,
        typer.Option(
            callback=writable_file,
            help="Write where confusion begins to this .csv: the first wrong line, word and character of each answer; "
            "with --model the token too, and how likely the language was there, after every layer.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that wrote the answers: read them again after the prompts in the column prompt, and say "
            "how likely a token of the language wanted was where confusion begins.",
            show_default=False,
        ),
    ] = None,
    chat: Annotated[bool, typer.Option(help="With --model: prompts went into its chat template.")] = False,
    counted: Annotated[
        str, typer.Option(help="With --model: the text whose tokens say which language a token is of.")
    ] = "starter",
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Line and word pass rates (LPR, WPR) of the Language Confusion Benchmark, with 95 % intervals; where it begins."""
    if model is None:
        refuse_unused(context, "without --model", "chat", "counted", "dtype", "device")
    check_file(completions, "give a table of answers")
    if words is not None:
        check_file(words, "give a list of English words, one a line")
    from neuroglot.run.settings import ModelSettings

    source = None
    if model is not None:
        source = checked(ModelSettings, source=model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        source.check_source()
    from neuroglot.evaluate.steering.confusion import confusion_table, english_words, read_completions

    given = read_completions(completions, language, text_column=text_column, language_column=language_column)
    if source is not None and "prompt" not in given:
        raise NeuroglotError(f"{completions} has no column 'prompt', which --model reads the answers after; add it.")
    listed = None if words is None else english_words(words)
    rates = confusion_table(given, words=listed)
    if table is not None:
        from neuroglot.storage.atomic import save_text
        from neuroglot.storage.tables import csv_text

        save_text(table, csv_text(rates))
    names, columns = [], {"answers": [], "judged": [], "line pass rate": [], "word pass rate": []}  # type: ignore[var-annotated]
    for row in rates.to_dict("records"):
        names.append(" ".join(str(row[key]) for key in ("task", "model", "source", "language") if row[key]))
        mean = row["judged"] != row["judged"]
        columns["answers"].append("" if mean else f"{row['completions']:.0f}")
        columns["judged"].append("" if mean else f"{row['judged']:.0f}")
        for rate in ("line", "word"):
            columns[f"{rate} pass rate"].append(
                share(row[f"{rate}_pass_rate"], row[f"{rate}_low"], row[f"{rate}_high"], digits=2)
            )
    print_table(columns, "", names)
    if starts is not None or source is not None:
        _begins(given, listed, source, chat, counted, starts)
    if table is not None:
        out.print(f"wrote {table}")


def _begins(
    given: "pd.DataFrame",
    words: "Collection[str] | None",
    source: "ModelSettings | None",
    chat: bool,
    counted: str,
    path: Path | None,
) -> None:
    """Print and write where confusion begins, and with a model how likely the language was there."""
    from neuroglot.run.confusion import confusion_starts

    found, by_layer = confusion_starts(given, words=words, model=source, chat=chat, counted=counted)
    answers = found["completion"].nunique() if len(found) else 0
    out.print(f"confusion begins in {answers:,} of {len(given):,} answers", highlight=False)
    if len(by_layer):
        cells = {
            "probability": [f"{value:.1%}" for value in by_layer["probability"]],
            "rank (median)": [f"{value:,.0f}" for value in by_layer["rank"]],
            "among the ten likeliest": [f"{value:.0%}" for value in by_layer["top10"]],
        }
        print_table(cells, "tokens of the language, after layer", [str(layer) for layer in by_layer["layer"]])
    if path is not None:
        from neuroglot.storage.atomic import save_text
        from neuroglot.storage.tables import csv_text

        save_text(path, csv_text(found))
        out.print(f"wrote {path}")
