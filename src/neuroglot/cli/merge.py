"""`neuroglot merge`: the parts of a recording, added up."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, out
from neuroglot.cli.options import writable


@app.command()
def merge(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Runs that hold parts of one recording; one run, if all parts are in it.", show_default=False
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=writable, help="The run to complete. [default: the first]", show_default=False
        ),
    ] = None,
) -> None:
    """Add up what `neuroglot record --shard i/n` recorded: the same bytes as from one process."""
    from neuroglot.run.recording import merge_runs

    run, made = merge_runs(runs, folder)
    out.print(f"merged {int(made.tokens.sum()):,} tokens in {len(made.languages)} languages: {run.path / 'recording'}")
    out.print(f"next: neuroglot identify {run.path}")
