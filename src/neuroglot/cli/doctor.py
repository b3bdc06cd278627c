"""`neuroglot doctor`: what is installed and what is missing; what was found in a model."""

import json
from typing import Annotated

import typer

from neuroglot.cli.app import app, out, say
from neuroglot.cli.options import TrustOption


@app.command()
def doctor(
    model: Annotated[
        str | None,
        typer.Argument(help="A model to look at: what was found in it and what it can do.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show versions, devices, caches, and which optional parts are missing and how to get them; or look at a model."""
    if model is not None:
        return _model(model, as_json, trust_remote_code)
    from dataclasses import asdict

    from neuroglot.cli.installation import examine

    found = examine()

    def lines(title: str, rows: dict[str, str]) -> None:
        out.print(title, style="bold", highlight=False)
        wide = max(map(len, rows), default=0)
        for name, words in rows.items():
            out.print(f"  {name.ljust(wide)}  {words}", markup=False, highlight=False)

    if as_json:
        out.print_json(json.dumps(asdict(found)))
    else:
        lines("versions", found.versions)
        lines("devices", {words.partition(": ")[0]: words.partition(": ")[2] for words in found.devices})
        lines("caches", found.places)
        lines("packaged weights", {
            name: "installed" if how is None else f"missing: {how}" for name, how in found.weights.items()
        })  # fmt: skip
        lines("optional parts", {
            extra.name: f'missing {", ".join(extra.missing)}: pip install "neuroglot[{extra.name}]"'
            if extra.missing else "installed"
            for extra in found.extras
        })  # fmt: skip
    for words in found.broken:
        say("missing", "red", f"{words}, which Neuroglot needs: pip install --upgrade neuroglot")
    if found.broken:
        raise typer.Exit(1)


def _model(source: str, as_json: bool, trust_remote_code: bool) -> None:
    from neuroglot.models.sources import check_source

    check_source(source)
    from neuroglot.models.description import describe
    from neuroglot.models.loading import load_model

    found = describe(load_model(source, trust_remote_code=trust_remote_code))
    if as_json:
        out.print_json(json.dumps(found.as_json()))
        return
    least, most = min(found.widths), max(found.widths)
    rows = {
        "architecture": f"{found.architecture}, {found.found}",
        "layers": f"{found.layers} of {most if least == most else f'{least} to {most}'} neurons",
        "FFN": "gated" if found.gated else "plain",
        "activation": found.sites["activation"],
        "hidden": found.sites["hidden"],
        "proof": found.proof,
        "bake": found.bake,
        "prune": found.prune,
        "GGUF": found.gguf,
    }
    if found.left_out:
        more = f" (and {len(found.left_out) - 1} more)" if len(found.left_out) > 1 else ""
        rows["left out"] = found.left_out[0] + more
    out.print(found.name, style="bold", markup=False, highlight=False)
    for name, words in rows.items():
        out.print(f"  {name.ljust(12)}  {words}", markup=False, highlight=False)
