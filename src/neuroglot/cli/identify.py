"""`neuroglot identify`: each language's neurons, by any method or from someone else's file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import app, out, print_table, split
from neuroglot.cli.options import MethodOption, RunArgument
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.neurons import NeuronSet
    from neuroglot.run import Run


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
    from neuroglot.run import Run

    if file is not None:
        from neuroglot.neurons import NeuronSet

        opened = Run.open(run)
        recording = opened.recording
        shape = (recording.layers, recording.neurons)
        imported = NeuronSet.load(file, languages=split(languages), shape=shape)
        keep_neurons(opened, "imported", imported, {"file": str(file)})
        out.print(f"next: neuroglot perturb {run} --method imported")
        return
    given = {
        "top_fraction": top_fraction,
        "activity_quantile": activity_quantile,
        "threshold": threshold,
        "seed": seed,
    }
    opened = Run.open(run)
    identify_run(opened, method, {name: value for name, value in given.items() if value is not None})
    out.print(f"next: neuroglot perturb {run} --method {method}")


def identify_run(run: "Run", method: str, settings: dict[str, Any]) -> None:
    """Run one method on the run's recording and keep what it finds."""
    from inspect import signature

    from neuroglot.identify import METHODS

    if method not in METHODS:
        raise NeuroglotError(f"{method} is not a method; choose among {', '.join(METHODS)}.")
    accepted = signature(METHODS[method]).parameters
    unused = [name for name in settings if name not in accepted]
    if unused:
        raise NeuroglotError(f"{method} has no {unused[0].replace('_', '-')}; leave the option out.")
    neurons = METHODS[method](run.recording, **settings)
    defaults = {name: p.default for name, p in accepted.items() if p.default is not p.empty}
    keep_neurons(run, method, neurons, defaults | settings)


def keep_neurons(run: "Run", method: str, neurons: "NeuronSet", settings: dict[str, Any]) -> None:
    """Save neurons as a method's of this run, and drop what measured those before them."""
    neurons.save(run.neurons_path(method))
    run.manifest.identify[method] = settings
    if run.manifest.perturb.pop(method, None) is not None:
        run.perturbation_path(method).unlink(missing_ok=True)  # it measured other neurons
    if run.manifest.tasks:
        from neuroglot.tasks_run import forget_tasks

        forget_tasks(run, method)
    run.save()
    print_table({tag: [f"{count:,}"] for tag, count in neurons.sizes().items()}, "neurons", [method])
    out.print(f"wrote {run.neurons_path(method)}")
