"""`neuroglot steer`: a model's answer in the language of choice, beside the one it gives by itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import app, checked, err, out
from neuroglot.cli.identify import print_neurons
from neuroglot.cli.options import (
    DeviceOption,
    DtypeOption,
    LayersOption,
    MethodOption,
    ModelArgument,
    SiteOption,
    SteerOption,
    StrengthOption,
    WhenOption,
)
from neuroglot.cli.record import print_recorded
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.edit.recipes import Recipe
    from neuroglot.evaluate.steering.forcing import Steering
    from neuroglot.models.model import Model
    from neuroglot.run.settings import ModelSettings


@app.command()
def steer(
    model: ModelArgument,
    prompt: Annotated[str, typer.Argument(help="What to continue or answer.", show_default=False)],
    to: Annotated[str | None, typer.Option(help="The language to answer in, such as zh.", show_default=False)] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Ablate this language's neurons. [default: the prompt's language; none for none]",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run that recorded this model. [default: runs/MODEL-starter]", show_default=False),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Read neurons and values from this file instead.", show_default=False)
    ] = None,
    method: MethodOption = "lape",
    steer: SteerOption = "replace",
    site: SiteOption = "activation",
    strength: StrengthOption = 1.0,
    layers: LayersOption = None,
    when: WhenOption = "both",
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new ones.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="As the LAPE paper has it.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Keep the recipe: a .safetensors file for --recipe.", show_default=False)
    ] = None,
    bake: Annotated[
        Path | None,
        typer.Option(help="Write a plain checkpoint steered so, where weights can say it.", show_default=False),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Answer a prompt in the language of your choice, side by side with the answer of the model as it is.

    The neurons and their values come from --run, or from a --recipe that was saved. Without either, the run
    runs/MODEL-starter is taken, and made from the built-in corpus if it is not there (minutes, once).
    """
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import ModelSettings

    if recipe is not None and (run is not None or to is not None or source is not None):
        raise NeuroglotError("--recipe says everything itself; leave out --run, --to and --from.")
    if recipe is None:
        if to is None:
            raise NeuroglotError("Say the language to answer in, such as --to zh, or give a --recipe.")
        to = language_tag(to)
    if not prompt.strip():
        raise NeuroglotError("The prompt is empty; give it some text.")
    if save is not None and save.suffix != ".safetensors":
        raise NeuroglotError(f"{save.name} should end in .safetensors.")
    settings = checked(ModelSettings, source=model, dtype=dtype, device=device)
    settings.check_source()
    if run is not None:
        Run.open(run).check_recorded()
    from neuroglot.edit.recipes import Recipe

    made = Recipe.load(recipe) if recipe is not None else None
    loaded: Model | None = None
    if made is None:
        assert to is not None
        how = {"method": steer, "site": site, "strength": strength, "when": when}
        made, loaded = _from_run(run, settings, prompt, to, source, method, layers, how)
    if loaded is None:
        loaded = settings.load()
    made.check(loaded)
    _show(
        loaded, made, prompt, tokens=tokens, temperature=temperature, repetition_penalty=repetition_penalty, seed=seed,
        chat=chat,
    )  # fmt: skip
    if save is not None:
        out.print(f"wrote {made.save(save)}: neuroglot steer {model} --recipe {save} PROMPT")
    if bake is not None:
        out.print(f"wrote {made.bake(loaded, bake)}")


def _from_run(
    run: Path | None,
    settings: "ModelSettings",
    prompt: str,
    to: str,
    source: str | None,
    method: str,
    layers: str | None,
    how: dict[str, Any],
) -> "tuple[Recipe, Model | None]":
    """The recipe from a run; from the default run, which is made if it is not there."""
    from neuroglot.languages.detection import LanguageIdentifier
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run, default_folder
    from neuroglot.run.identification import beyond_recording, identify_run
    from neuroglot.run.recording import begin_run
    from neuroglot.run.settings import RunRecordSettings, TextSettings

    loaded = None
    folder = run or default_folder(settings.source, "starter")
    if run is None and not (folder / "recording" / "recording.safetensors").is_file():
        if lack := beyond_recording(method):
            raise NeuroglotError(
                f"{method} needs {lack}, which the run that is made here has not; make one that has it and give --run."
            )
        text = TextSettings(source="starter")
        if language_tag(to) not in text.load()[0].languages:
            raise NeuroglotError(
                f"There is no run of {settings.source} in {folder}, and the built-in corpus has no {to}; record text "
                f"that has it (neuroglot record {settings.source} CORPUS --out RUN; neuroglot identify RUN) and give "
                "--run RUN."
            )
        err.print(
            f"recording {settings.source} on the built-in corpus, once, into {folder}", highlight=False, soft_wrap=True
        )
        begun, loaded, made = begin_run(folder, settings, text, RunRecordSettings(block=128, tokens=6_000))
        print_recorded(begun, made)
    found = Run.open(folder)
    if run is None and not found.neurons_path(method).is_file():
        print_neurons(found, method, identify_run(found, method, {}))
    neurons, recording = found.neurons(method), found.recording
    neurons.check_languages([to])
    off = None if source == "none" else source
    if source is None:
        spoken = LanguageIdentifier(neurons.languages)(prompt)
        off = spoken if spoken in neurons.languages and spoken != language_tag(to) else None
    return steering_settings(layers, recording.layers, **how).recipe(recording, neurons, to, off), loaded


def steering_settings(layers: str | None, depth: int, *, method: str, **how: Any) -> "Steering":
    """How the target is raised, from the options of that."""
    from neuroglot.edit.steering import METHODS, layer_numbers
    from neuroglot.evaluate.steering.forcing import Steering

    if method not in METHODS:
        raise NeuroglotError(f"--steer takes {', '.join(METHODS)}, not {method!r}.")
    return checked(Steering, method=method, layers=layer_numbers(layers, depth), **how)


def _show(model: "Model", recipe: "Recipe", prompt: str, **settings: object) -> None:
    """Write both answers, one after the other, into two columns as they come."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from neuroglot.generation.engine import generate

    about = recipe.about
    target = about.get("to") or "recipe"
    said = {"as it is": "", f"steered to {target}": ""}

    def columns() -> Table:
        table = Table(*said, expand=True)
        for column in table.columns:
            column.ratio = 1
            column.overflow = "fold"
        table.add_row(*(Text(text) for text in said.values()))
        return table

    changes = ", ".join(f"{type(step).__name__.lower()} {int(step.neurons.sum()):,} neurons" for step in recipe.steps)
    off = f"{about['source']} off, " if about.get("source") else ""
    with Live(columns(), console=out, refresh_per_second=8, transient=not out.is_terminal) as live:
        for name in said:

            def written(text: str, name: str = name) -> None:
                said[name] = text
                live.update(columns())

            if name == "as it is":
                generate(model, [prompt], written=written, **settings)  # type: ignore[arg-type]
            else:
                with recipe.applied(model):
                    generate(model, [prompt], written=written, **settings)  # type: ignore[arg-type]
    if not out.is_terminal:
        for name, text in said.items():
            out.print(f"[bold]{name}[/bold]")
            out.print(text.strip(), markup=False, highlight=False, soft_wrap=True)
    out.print(f"{off}{changes}", highlight=False)
