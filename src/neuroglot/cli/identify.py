"""`neuroglot identify`: each language's neurons, by any method or from someone else's file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, out, print_table, split
from neuroglot.cli.options import MethodOption, RunArgument

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.run.directory import Run


@app.command()
def identify(
    run: RunArgument,
    method: MethodOption = "lape",
    top_fraction: Annotated[
        float | None,
        typer.Option(
            help="Share of all neurons to choose (lape, lave, margin, random). [default: 0.01]", show_default=False
        ),
    ] = None,
    activity_quantile: Annotated[
        float | None,
        typer.Option(
            help="Only neurons above this quantile of all values count (lape, lave). [default: 0.95]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability a neuron must exceed (lap). [default: 0.95]", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw (random). [default: 0]", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Take someone else's neurons, a .safetensors or .neuron.pth, as the method `imported`.",
            show_default=False,
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="The languages of a .neuron.pth, in its order.", show_default=False)
    ] = None,
) -> None:
    """Find each language's neurons in a recording. Takes seconds; try other settings as you like."""
    from neuroglot.run.directory import Run
    from neuroglot.run.identification import identify_run, keep_neurons

    opened = Run.open(run)
    if file is not None:
        from neuroglot.artifacts.neurons import NeuronSet

        recording = opened.recording
        shape = (recording.layers, recording.neurons)
        imported = NeuronSet.load(file, languages=split(languages), shape=shape)
        keep_neurons(opened, "imported", imported, {"file": str(file)})
        print_neurons(opened, "imported", imported)
        out.print(f"next: neuroglot perturb {run} --method imported")
        return
    given = {
        "top_fraction": top_fraction,
        "activity_quantile": activity_quantile,
        "threshold": threshold,
        "seed": seed,
    }
    neurons = identify_run(opened, method, {name: value for name, value in given.items() if value is not None})
    print_neurons(opened, method, neurons)
    out.print(f"next: neuroglot perturb {run} --method {method}")


def print_neurons(run: "Run", method: str, neurons: "NeuronSet") -> None:
    """Print how many neurons each language has, and where they are."""
    print_table({tag: [f"{count:,}"] for tag, count in neurons.sizes().items()}, "neurons", [method])
    out.print(f"wrote {run.neurons_path(method)}")
