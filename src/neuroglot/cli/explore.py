"""`neuroglot explore`: a run in the browser."""

from typing import Annotated

import typer

from neuroglot.cli.app import app, out, split
from neuroglot.cli.options import RunArgument, TrustOption


@app.command()
def explore(
    run: RunArgument,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines connect, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 7860,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(help="Further names it may be asked under, those of a proxy: lab.example.org,*.example.org."),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="The path that a proxy serves it under, such as /lab.", show_default=False)
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Look at a run in the browser: atlas, lab, matrices, alignment, pruning. Ctrl-C ends it."""
    from neuroglot.run.directory import Run

    current = Run.open(run, trust_remote_code=trust_remote_code)
    from neuroglot.explorer.app import explore as show

    out.print(f"opening {run}; Ctrl-C ends it")
    show(
        current, host=host, port=port or None, browser=browser, allowed_hosts=split(allowed_hosts) or (),
        root_path=root_path,
    )  # fmt: skip
