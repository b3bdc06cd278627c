"""The app that commands register with, how they speak, and how they read lists and settings from options."""

import errno
import math
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

from neuroglot.errors import NeuroglotError, NeuroglotWarning, validated

if TYPE_CHECKING:  # importing torch takes seconds, and --help should not
    from pydantic import BaseModel

S = TypeVar("S", bound="BaseModel")

QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
}
"""Other libraries' bars and log lines, which would break into ours; read when a library is first imported."""

STOPPED = 130
"""The exit status of what Ctrl-C ended, as shells have it."""


class Commands(TyperGroup):
    """All commands. Ctrl-C ends any of them with a sentence; Typer's own ending says nothing of what is kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the line names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            stopped()


class OneCommand(TyperCommand):
    """One command: its numbers are finite, since «nan» is above and below no bound of an option."""

    def invoke(self, ctx: Any) -> Any:
        """Run it, unless an option holds a number that is none."""
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NeuroglotError(f"--{name.replace('_', '-')} takes a finite number, not {value}.")
        return super().invoke(ctx)


def _commands(within: typer.Typer) -> None:
    """Make every command one that checks its numbers."""
    for command in within.registered_commands:
        command.cls = OneCommand if command.cls is TyperCommand else command.cls
    for group in within.registered_groups:
        if group.typer_instance is not None:
            _commands(group.typer_instance)


def stopped() -> NoReturn:
    """End, and say how to go on."""
    err.print("stopped; the same command goes on from what is finished.", highlight=False, soft_wrap=True)
    sys.exit(STOPPED)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find, measure and edit the language neurons of an LLM.\n\nThe order of work: record, identify, perturb, "
    "report. "
    "Try it first with [bold]neuroglot demo[/bold].",
)
# A path broken over two lines cannot be copied, and one of [brackets] is a name and no style.
out = Console(soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    family: Annotated[
        Path | None,
        typer.Option("--family", help="A TOML file that describes model families (docs/families.md).", metavar="FILE"),
    ] = None,
) -> None:
    """Find, measure and edit the language neurons of an LLM."""
    if family is not None:
        from neuroglot.models.architecture.families import declare, read_families

        declare(*read_families(family))
    if version:
        from neuroglot import __version__

        out.print(__version__)
        raise typer.Exit


def say(kind: str, style: str, words: str) -> None:
    """A sentence to the user, behind what kind of one it is."""
    err.print(f"{kind}:", style=style, end=" ", highlight=False)
    err.print(words, highlight=False, soft_wrap=True)


def checked(kind: "type[S]", /, **values: Any) -> "S":
    """Settings from options, or one sentence on the option that is wrong."""
    return validated(kind, values, lambda name: "--" + name.replace("_", "-"))


def split(languages: str | None) -> list[str] | None:
    """Tags from `en,fr,zh`; None for all."""
    return [tag.strip() for tag in languages.split(",") if tag.strip()] if languages else None


def numbers(text: str, option: str) -> list[float]:
    """Numbers from `0.05,0.01`, none from nothing; one sentence on an option that holds something else."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()] if text.isascii() else []
    except ValueError:
        found = []
    if text and not (found and all(map(math.isfinite, found))):
        raise NeuroglotError(f"{option} takes numbers such as 0.05,0.01, not {text!r}.")
    return found


def percent(change: float) -> str:
    """A relative change as tables show it: `+12.3%`, `×3e+147`, `+∞`, and `–` for one that is not known."""
    if math.isnan(change):
        return "–"
    if 1e4 <= change < math.inf:
        return f"×{change + 1:.0e}"
    return f"{change:+.1%}" if math.isfinite(change) else "+∞"


def share(value: float, low: float, high: float, digits: int = 1) -> str:
    """A share with its interval, where that is known; `n/a` where there is none."""
    if value != value:
        return "n/a"
    return f"{value:.{digits}%}" if low != low else f"{value:.{digits}%} ({low:.0%} to {high:.0%})"


def print_table(columns: dict[str, list[str]], corner: str, rows: list[str]) -> None:
    """Print columns of cells, right-aligned, with the rows' names in the first."""
    table = Table(corner, *(tag for tag in columns), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for i, row in enumerate(rows):
        table.add_row(row, *(values[i] for values in columns.values()))
    wide = Measurement.get(out, out.options.update(max_width=10_000), table).maximum
    # a number cut short is no number
    Console(width=max(wide, out.width), markup=False, emoji=False).print(table, crop=False)


def refuse(sentence: str) -> NoReturn:
    """End with one sentence on what is wrong."""
    with suppress(OSError):  # of a log on a disk that is full
        say("error", "red", sentence)
    sys.exit(2)


def _shortened(name: str) -> str:
    return name if len(name) <= 160 else f"{name[:80]}…{name[-40:]}"


def main() -> None:
    """Run the command line: bad input is one sentence and exit status 2, never a traceback."""

    noted = set[str]()

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, NeuroglotWarning) and str(message) not in noted:
            noted.add(str(message))  # what holds for each language or row is said once
            say("note", "yellow", str(message))

    warnings.showwarning = show
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _commands(app)
    try:
        app()
    except NeuroglotError as error:
        refuse(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported to ask
            raise
        refuse("The device has no memory left for this; end other jobs on it, or choose another --device or --dtype.")
    except OSError as error:  # of a path that was given: its name is too long, it is another's …
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left to be printed
            refuse(f"What is printed cannot be written: {error.strerror}; make room there, or print it elsewhere.")
        if error.filename is None:
            raise
        refuse(f"{_shortened(str(error.filename))} cannot be used: {error.strerror or error}.")
    except KeyboardInterrupt:  # before the command began
        stopped()
