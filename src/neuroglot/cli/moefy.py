"""`neuroglot moefy`: a run's dense model as an ordinary mixture of experts."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, out, print_table
from neuroglot.cli.options import RunArgument, TrustOption, writable
from neuroglot.errors import NeuroglotError


@app.command()
def moefy(
    run: RunArgument,
    folder: Annotated[
        Path, typer.Option("--out", "-o", callback=writable, help="A new directory.", show_default=False)
    ],
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many experts a token is given. [default: all of them]", show_default=False),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Fit the routers on so many tokens of the run's text.")] = 20_000,
    samples: Annotated[int, typer.Option(min=1, help="Measure on so many held-out samples of each language.")] = 1_000,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the run's model as a mixture of the experts that were counted, and say what that costs.

    Plain transformers opens it. With all experts chosen it computes what the dense model does.
    """
    from neuroglot.run.directory import Run

    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.check_experts()
    current.check_model()
    settings = current.manifest.experts
    assert settings is not None
    if top is not None and top > settings.experts:
        raise NeuroglotError(f"--top is at most the {settings.experts} experts of a layer, not {top}.")
    from neuroglot.storage.made import check_place

    check_place(folder, "mixture of experts")
    from neuroglot.experts.moefy import expert_width

    expert_width(current.manifest.model.source, current.recording.widths, settings.experts)
    from neuroglot.run.pruning import moefy_run

    before, after = moefy_run(
        current, current.load_model(), top or settings.experts, folder, tokens=tokens, samples=samples
    )
    columns = {
        "perplexity, dense": [f"{before[tag]:.4g}" for tag in before],
        f"{top or settings.experts} of {settings.experts} experts": [f"{after[tag]:.4g}" for tag in before],
    }
    print_table(columns, "language", list(before))
    out.print(f"wrote {folder}")
