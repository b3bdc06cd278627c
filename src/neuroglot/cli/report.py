"""`neuroglot report`: tables, figures and one page of a run."""

from typing import TYPE_CHECKING

from neuroglot.cli.app import app, out
from neuroglot.cli.options import RunArgument

if TYPE_CHECKING:
    from neuroglot.run.directory import Run


@app.command()
def report(run: RunArgument) -> None:
    """Write the tables, the figures and one self-contained page of everything a run holds so far."""
    from neuroglot.run.directory import Run

    report_run(Run.open(run))


def report_run(run: "Run") -> None:
    """Write everything and say where."""
    from neuroglot.report.page import report as write

    page = write(run)
    out.print(f"wrote {run.path / 'tables'}, {run.path / 'figures'}, {page}")
