"""`neuroglot evaluate confusion`: do answers stay in their language, line by line and word by word."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import out, print_table
from neuroglot.cli.evaluate import evaluate
from neuroglot.errors import NeuroglotError


@evaluate.command()
def confusion(
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
        Path | None, typer.Option("--out", "-o", help="Write the rates to this .csv too.", show_default=False)
    ] = None,
) -> None:
    """Line and word pass rates (LPR, WPR) of the Language Confusion Benchmark, with 95 % intervals."""
    if not completions.is_file():
        raise NeuroglotError(f"There is no file {completions}; give a table of answers.")
    if words is not None and not words.is_file():
        raise NeuroglotError(f"There is no file {words}; give a list of English words, one a line.")
    from neuroglot.evaluate.steering.confusion import confusion_table, english_words, read_completions

    rates = confusion_table(
        read_completions(completions, language, text_column=text_column, language_column=language_column),
        words=None if words is None else english_words(words),
    )
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
                _share(row[f"{rate}_pass_rate"], row[f"{rate}_low"], row[f"{rate}_high"])
            )
    print_table(columns, "", names)
    if table is not None:
        out.print(f"wrote {table}")


def _share(value: float, low: float, high: float) -> str:
    if value != value:
        return "n/a"
    return f"{value:.2%}" if low != low else f"{value:.2%} ({low:.0%} to {high:.0%})"
