"""`neuroglot identify`: each language's neurons, by any method or from someone else's file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, out, print_table, split
from neuroglot.cli.methods import IdentifyCommand
from neuroglot.cli.options import MethodOption, RunArgument, UnitsOption, units_named
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.run.directory import Run


@app.command(cls=IdentifyCommand)
def identify(
    context: typer.Context,
    run: RunArgument,
    method: MethodOption = "lape",
    units: UnitsOption = "neurons",
    shares: Annotated[
        str,
        typer.Option(
            help="Of a native mixture of experts: joint, shares of all tokens of a language; or conditional, of those "
            "that reach the neuron's expert."
        ),
    ] = "joint",
    file: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Take someone else's neurons, a .safetensors or a file as the LAPE authors publish them, whatever its "
            "name, as the method `imported`.",
            show_default=False,
        ),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            help="With --import: the languages of a published file, in its order, since nothing in it says so.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Find each language's neurons in a recording. Takes seconds; try other settings as you like.

    A method's settings are options too: --method lap --threshold 0.9.
    """
    from neuroglot.identify.registry import described
    from neuroglot.identify.units import of_units
    from neuroglot.run.directory import Run
    from neuroglot.run.identification import identify_run, keep_neurons

    if languages is not None and file is None:
        raise NeuroglotError(
            "--languages names the languages of a file that --import reads; a method finds those that were recorded."
        )
    if file is not None:
        if context.obj:
            option = next(iter(context.obj)).replace("_", "-")
            raise NeuroglotError(f"--{option} changes nothing with --import, which reads neurons; leave it out.")
        refuse_unused(context, "with --import, which reads neurons", "method")
    of = units_named(units)
    if of == "heads" and (file is not None or shares != "joint"):
        raise NeuroglotError("--import and --shares are about neurons; leave them out with --units heads.")
    if shares not in ("joint", "conditional"):
        raise NeuroglotError(f"--shares takes joint or conditional, not {shares!r}.")
    if shares == "conditional" and file is not None:
        raise NeuroglotError("--shares is about how a method reads the recording; leave it out with --import.")
    current = Run.open(run)
    current.check_recorded()
    if file is not None:
        from neuroglot.artifacts.neurons import NeuronSet

        recording = current.recording
        shape = (recording.layers, recording.neurons)
        found = NeuronSet.load(file, languages=split(languages), shape=shape)
        method, neurons = "imported", found.of_model(recording)
        keep_neurons(current, method, neurons, {"file": str(file)})
    else:
        described(method)  # an unknown one is refused before torch is imported
        neurons = identify_run(current, method, context.obj, shares, of)
    print_neurons(current, of_units(method, of), neurons)
    more = " --units heads" if of == "heads" else ""
    out.print(f"next: neuroglot perturb {run} --method {method}{more}")


def print_neurons(run: "Run", method: str, neurons: "NeuronSet") -> None:
    """Print how many neurons, or heads, each language has, and where they are."""
    from neuroglot.identify.units import units_of

    print_table({tag: [f"{count:,}"] for tag, count in neurons.sizes().items()}, units_of(method), [method])
    out.print(f"wrote {run.neurons_path(method)}")
