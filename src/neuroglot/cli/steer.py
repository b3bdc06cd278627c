"""`neuroglot steer`: a model's answer in the language of choice, beside the one it gives by itself."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import app, checked, out
from neuroglot.cli.built_in import built_in_run
from neuroglot.cli.identify import print_neurons
from neuroglot.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    LayersOption,
    ModelArgument,
    SiteOption,
    SteerOption,
    StrengthOption,
    TrustOption,
    WhenOption,
    writable,
    writable_file,
)
from neuroglot.cli.unused import refuse_unused
from neuroglot.edit.steering_methods import DIRECTIONS, METHODS, ROUTER, SAMPLED
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.storage.made import check_place

if TYPE_CHECKING:
    from neuroglot.edit.recipes import Recipe
    from neuroglot.evaluate.steering.forcing import Steering
    from neuroglot.models.model import Model
    from neuroglot.run.settings import ModelSettings


OF_NEURONS = ("method", "steer", "site")
OF_BOTH = ("strength", "layers", "when")
"""Parameters of how neurons are steered, and of how a published direction is, too."""


@app.command()
def steer(
    context: typer.Context,
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
        typer.Option(
            help="The run that recorded this model. [default: runs/MODEL-starter, or runs/MODEL-steer, which is made]",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Read neurons and values from this file instead.", show_default=False)
    ] = None,
    vector: Annotated[
        Path | None,
        typer.Option(
            help="Add these directions after --layers instead: a file as CLaS-Bench publishes them, or layer.i in a "
            ".safetensors; each of length 1 times --strength.",
            show_default=False,
        ),
    ] = None,
    less: Annotated[
        Path | None, typer.Option(help="With --vector: subtract these first, of another language.", show_default=False)
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="Which neurons: a method of `neuroglot identify --help`; or instead of neurons the residual stream: "
            "diffmean (the language's direction), probe or lda (of samples that `neuroglot align` records), or sparse "
            "(its dimensions that differ most); or router, of a native mixture of experts: a bonus of --strength for "
            "the language's experts, and those of --from taken out.",
        ),
    ] = "lape",
    steer: SteerOption = "replace",
    site: SiteOption = "activation",
    strength: StrengthOption = 1.0,
    layers: LayersOption = None,
    when: WhenOption = "both",
    experts_off: Annotated[
        str | None,
        typer.Option(
            help="Of a native mixture of experts: take these out of the router's choice, LAYER:EXPERT, from 1 and 0, "
            "such as 2:0,2:5.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new ones.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="As the LAPE paper has it.")] = 1.1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            callback=writable_file, help="Keep the recipe: a .safetensors file for --recipe.", show_default=False
        ),
    ] = None,
    bake: Annotated[
        Path | None,
        typer.Option(
            callback=writable, help="Write a plain checkpoint steered so, where weights can say it.", show_default=False
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            callback=writable_file,
            help="Write it for other engines, where it is a control vector: .gguf (llama.cpp), or .safetensors.",
            show_default=False,
        ),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    bos: BosOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Answer a prompt in the language of your choice, side by side with the answer of the model as it is.

    The neurons and their values come from --run, or from a --recipe that was saved. Without either, a run on the
    built-in corpus is taken: runs/MODEL-starter, or runs/MODEL-steer, which is made of the languages needed, once.
    """
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import ModelSettings

    if recipe is not None and (run is not None or to is not None or source is not None):
        raise NeuroglotError("--recipe says everything itself; leave out --run, --to and --from.")
    if vector is not None and (recipe is not None or run is not None or source is not None or layers is None):
        raise NeuroglotError("--vector needs --layers, and takes no --recipe, --run or --from; leave them out.")
    if less is not None and vector is None:
        raise NeuroglotError("--less is subtracted from --vector; give both.")
    enough = recipe is not None or vector is not None or to is not None
    if not enough and (experts_off is None or source is not None or run is not None):
        raise NeuroglotError("Say the language to answer in, such as --to zh, or give a --recipe.")
    if recipe is not None:
        refuse_unused(context, "with --recipe, which says everything itself", *OF_NEURONS, *OF_BOTH)
    elif vector is not None:
        refuse_unused(context, "with --vector", *OF_NEURONS)
    elif to is None:
        refuse_unused(context, "without --to", *OF_NEURONS, *OF_BOTH)
    to = to and language_tag(to)
    pairs = _pairs(experts_off)
    if method in DIRECTIONS and source not in (None, "none"):
        raise NeuroglotError(f"--from ablates a language's neurons, which {method} has none of; leave it out.")
    if not prompt.strip():
        raise NeuroglotError("The prompt is empty; give it some text.")
    if save is not None and save.suffix != ".safetensors":
        raise NeuroglotError(f"{save.name} should end in .safetensors.")
    if export is not None and export.suffix not in (".gguf", ".safetensors"):
        raise NeuroglotError(f"{export.name} should end in .gguf or .safetensors.")
    settings = checked(
        ModelSettings, source=model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, bos=bos
    )
    settings.check_source()
    if run is not None:
        Run.open(run).check_recorded()
    if bake is not None:
        check_place(bake, "baked model (--bake)")
    how: dict[str, Any] = {"method": steer, "site": site, "strength": strength, "when": when}
    from neuroglot.edit.recipes import Recipe
    from neuroglot.generation.prompts import check_prompts
    from neuroglot.generation.settings import check_settings

    steering_settings(layers, None, **how)  # what is wrong with it is said before anything is recorded
    made = Recipe.load(recipe) if recipe is not None else None
    check_settings(tokens, repetition_penalty, temperature, 1.0, None)
    check_prompts(settings.reader(trust_remote_code=trust_remote_code), [prompt], tokens, chat)
    loaded: Model | None = None
    if vector is not None:
        made, loaded = _from_vectors(settings, vector, less, to, layers, how)
    elif made is None and to is not None:
        made, loaded, recorded = _from_run(run, settings, prompt, to, source, method, layers, how)
        settings = settings if bos else settings.reading_as(recorded)
    if loaded is None:
        loaded = settings.load(trust_remote_code=trust_remote_code)
    if pairs:
        from neuroglot.edit.routing import DeactivateExperts, named_experts

        off = Recipe([DeactivateExperts(named_experts(loaded, pairs))], loaded.fingerprint, {"model": loaded.name})
        made = off if made is None else made + off
    assert made is not None
    made.check(loaded)
    wrote = _written(made, loaded, bake, export, save)  # what weights or a vector cannot hold is said before the answer
    _show(
        loaded, made, prompt, tokens=tokens, temperature=temperature, repetition_penalty=repetition_penalty, seed=seed,
        chat=chat,
    )  # fmt: skip
    for path in wrote:
        out.print(f"wrote {path}" + (f": neuroglot steer {model} --recipe {save} PROMPT" if path == save else ""))


def _written(recipe: "Recipe", model: "Model", bake: Path | None, export: Path | None, save: Path | None) -> list[Path]:
    """Write the recipe in the ways that were asked for, those that may be refused first."""
    wrote = [] if bake is None else [recipe.bake(model, bake)]
    wrote += [] if export is None else [recipe.export(export, model)]
    return wrote if save is None else [*wrote, recipe.save(save)]


def _pairs(text: str | None) -> list[tuple[int, int]]:
    """Layers and experts from `2:0,2:5`."""
    found = []
    for part in (text or "").split(",") if text is not None else ():
        layer, _, expert = part.strip().partition(":")
        if not (layer.isdecimal() and expert.isdecimal()):
            raise NeuroglotError(f"--experts-off takes LAYER:EXPERT such as 2:0,2:5, not {text!r}.")
        found.append((int(layer), int(expert)))
    return found


def _from_vectors(
    settings: "ModelSettings", vector: Path, less: Path | None, to: str | None, layers: str | None, how: dict[str, Any]
) -> "tuple[Recipe, Model]":
    """The recipe that adds published directions, and the model."""
    from neuroglot.edit.published import load_directions, steer_along
    from neuroglot.edit.steering import layer_numbers

    directions = load_directions(vector)
    if less is not None:
        other = load_directions(less)
        if other.shape != directions.shape:
            raise NeuroglotError(f"{vector} and {less} are of different shapes; give vectors of one model.")
        directions = directions - other
    where = layer_numbers(layers, len(directions)) or ()
    model = settings.load(trust_remote_code=settings.trust_remote_code)
    about = {"to": to, "method": "published directions", "file": vector.name, "less": less and less.name}
    how = {"strength": how["strength"], "when": how["when"]}
    return steer_along(model, directions, layers=where, about=about, **how), model


def _from_run(
    run: Path | None,
    settings: "ModelSettings",
    prompt: str,
    to: str,
    source: str | None,
    method: str,
    layers: str | None,
    how: dict[str, Any],
) -> "tuple[Recipe, Model | None, ModelSettings]":
    """The recipe from a run, and how that opened the model; from one on the built-in corpus if none is named."""
    from neuroglot.languages.detection import LanguageIdentifier
    from neuroglot.languages.tags import closest
    from neuroglot.run.directory import Run
    from neuroglot.run.identification import beyond_recording, identify_run
    from neuroglot.run.steering import samples_for

    _check_method(method, run)
    folder, loaded = run, None
    if folder is None:
        if method in SAMPLED:
            raise NeuroglotError(f"{method} is found in samples: record a run with --residual, align it, give --run.")
        lack = None if method in (*DIRECTIONS, ROUTER) else beyond_recording(method)
        if lack:
            raise NeuroglotError(
                f"{method} needs {lack}, which the run that is made here has not; make one that has it and give --run."
            )
        folder, loaded = _built_in(settings, prompt, to, source, layers, how)
    found = Run.open(folder)
    recording, opened = found.recording, found.manifest.model
    how_raised = steering_settings(layers, recording.layers, **how)
    if closest(to, recording.languages) is None:
        raise NeuroglotError(f"{folder} has not recorded {to}; it has {', '.join(recording.languages)}.")
    if method == ROUTER:
        if how["site"] != "activation" or how["method"] != "replace":
            raise NeuroglotError("--steer and --site are about neurons, and the router has none; leave them out.")
        asked = how_raised.model_copy(update={"method": method})
        return asked.recipe(recording, None, to, None if source == "none" else source), loaded, opened
    if method in DIRECTIONS:
        if how["site"] != "activation" or how["method"] != "replace":
            raise NeuroglotError(f"--steer and --site are about neurons, which {method} has none of; leave them out.")
        asked = how_raised.model_copy(update={"method": method})
        return asked.recipe(recording, None, to, None, samples_for(found, method)), loaded, opened
    if not found.neurons_path(method).is_file() and beyond_recording(method) is None:  # it takes milliseconds
        print_neurons(found, method, identify_run(found, method, {}))
    neurons = found.neurons(method)
    neurons.check_languages([closest(to, neurons.languages) or to])
    off = None if source == "none" else source
    if source is None:
        off = _spoken(LanguageIdentifier(neurons.languages)(prompt), neurons.languages, to)
    return how_raised.recipe(recording, neurons, to, off), loaded, opened


def _check_method(method: str, run: Path | None) -> None:
    """Refuse a name that is neither a method of finding neurons nor a direction, nor what the run calls neurons."""
    from neuroglot.identify.registry import names
    from neuroglot.run.directory import Run

    given = () if run is None else Run.open(run).methods
    known = tuple(dict.fromkeys((*names(), *given, *DIRECTIONS, ROUTER)))
    if method not in known:
        raise NeuroglotError(f"{method} is not a method; choose among {', '.join(known)}.")


def _spoken(detected: str | None, languages: Sequence[str], to: str) -> str | None:
    """The language to ablate: the prompt's, if there are neurons of it and it is not the target's."""
    from neuroglot.languages.tags import closest, named

    found = None if detected is None else closest(detected, languages)
    if found is None:
        seen = "The prompt's language cannot be told" if detected is None else f"The prompt is in {named(detected)}"
        warnings.warn(
            f"{seen}, and there are neurons of {', '.join(languages)}, so nothing is ablated; say which with --from.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return found if found is None or closest(found, [to]) is None else None


def _built_in(
    settings: "ModelSettings", prompt: str, to: str, source: str | None, layers: str | None, how: dict[str, Any]
) -> "tuple[Path, Model | None]":
    """The run on the built-in corpus that has the languages of question and answer; the model, if it was opened."""
    from neuroglot.corpus.load import load_corpus
    from neuroglot.languages.detection import LanguageIdentifier
    from neuroglot.languages.tags import closest, language_tag

    available = load_corpus("starter").languages
    languages = [to]
    if source is None:
        spoken = LanguageIdentifier(available)(prompt)
        languages += [spoken] if spoken and closest(spoken, available) else []
    elif source != "none":
        languages.append(language_tag(source))
    return built_in_run(settings, languages, lambda model: steering_settings(layers, model.layers, **how))


def steering_settings(layers: str | None, depth: int | None, *, method: str, **how: Any) -> "Steering":
    """How the target is raised, from the options of that; `depth` is the model's number of layers, if that is known."""
    from neuroglot.edit.steering import layer_numbers
    from neuroglot.evaluate.steering.forcing import Steering

    known = (*METHODS, *DIRECTIONS, ROUTER)
    if method not in known:
        raise NeuroglotError(f"--steer takes {', '.join(known)}, not {method!r}.")
    return checked(Steering, method=method, layers=layer_numbers(layers, depth), **how)


def _show(model: "Model", recipe: "Recipe", prompt: str, **settings: object) -> None:
    """Write both answers, one after the other, into two columns as they come."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    from neuroglot.edit.interventions import described
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

    changes = ", ".join(described(step) for step in recipe.steps)
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
            out.print(name, style="bold", highlight=False)
            out.print(text.strip(), markup=False, highlight=False, soft_wrap=True)
    out.print(f"{off}{changes}", highlight=False)
