"""`neuroglot doctor`: what is installed, what it runs on, and what is missing."""

import typer

from neuroglot.cli.app import app, err, out


@app.command()
def doctor() -> None:
    """Show versions, devices, caches, and which optional parts are missing and how to get them."""
    from neuroglot.cli.installation import examine

    found = examine()

    def lines(title: str, rows: dict[str, str]) -> None:
        out.print(f"[bold]{title}[/bold]")
        wide = max(map(len, rows), default=0)
        for name, words in rows.items():
            out.print(f"  {name.ljust(wide)}  {words}", markup=False, highlight=False)

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
        err.print(f"[red]missing:[/red] {words}, which Neuroglot needs: pip install --upgrade neuroglot")
    if found.broken:
        raise typer.Exit(1)
