"""`neuroglot shrink`: a model for one language, at a share of its size."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, checked, out, print_table, split
from neuroglot.cli.options import (
    DeviceOption,
    DtypeOption,
    LanguageColumnOption,
    ModelArgument,
    TextColumnOption,
    writable,
    writable_file,
)
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError
from neuroglot.progress import status


@app.command()
def shrink(
    context: typer.Context,
    model: ModelArgument,
    language: Annotated[
        str, typer.Option("--language", "-l", help="Whom the model is for: fr; or several: fr,de.", show_default=False)
    ],
    text: Annotated[
        str, typer.Option(help="Text in the language: a corpus as `record` takes it. The more, the better.")
    ] = "starter",
    size: Annotated[str, typer.Option(help="At most this share of all parameters.")] = "50%",
    folder: Annotated[Path, typer.Option("--out", "-o", callback=writable, help="A new directory.")] = Path("shrunk"),
    tokens: Annotated[int, typer.Option(min=1, help="Fit what is left on so many tokens.")] = 20_000,
    characters: Annotated[int, typer.Option(min=1, help="Measure on so many held-out characters.")] = 50_000,
    hold_out: Annotated[int, typer.Option(min=2, help="Keep every n-th document for measuring.")] = 5,
    even: Annotated[
        bool,
        typer.Option(help="As many neurons in every layer, which plain transformers opens; or the best of all layers."),
    ] = True,
    salience: Annotated[
        str,
        typer.Option(
            help="Which neurons go: those that write least on the text (magnitude), or those that the re-fitted layer "
            "misses least (loss)."
        ),
    ] = "magnitude",
    heads: Annotated[
        bool, typer.Option(help="Try fewer attention heads, too, where the model's config can say how many there are.")
    ] = True,
    heal: Annotated[
        int,
        typer.Option(min=0, help="Train what is left on so many tokens of the text, taught by the intact model."),
    ] = 0,
    learning_rate: Annotated[float, typer.Option(help="With --heal: the learning rate at its highest.")] = 2e-4,
    gguf: Annotated[
        Path | None,
        typer.Option(
            callback=writable_file,
            help="Write a .gguf file for llama.cpp, too; of a model that came as one.",
            show_default=False,
        ),
    ] = None,
    also: Annotated[
        str | None,
        typer.Option(help="Measure these languages of the text, too, such as en,de.", show_default=False),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Score both models on these tasks, such as xnli_fr; none for none. [default: the built-in ones]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random baseline, and of the healing.")] = 0,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Cut a model's vocabulary and neurons to what a language uses, re-fit and heal the rest, and say what that costs.

    Stopped in the healing and started again with the same command, it goes on where it was; finished, it says again
    what it did.
    """
    if not heal:
        refuse_unused(context, "without --heal", "learning_rate")
    share = _share(size)
    if folder.exists() and not (folder / "neuroglot_shrink.json").is_file():  # of another command
        raise NeuroglotError(f"{folder} exists; choose another --out.")
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.settings import ModelSettings, TextSettings

    how = checked(ModelSettings, source=model, dtype=dtype, device=device)
    how.check_source()
    tags = list(dict.fromkeys(map(language_tag, split(language) or [])))
    if not tags:
        raise NeuroglotError("--language takes the language that the model is for, such as fr.")
    others = [other for other in map(language_tag, split(also) or []) if other not in tags]
    source = checked(
        TextSettings, source=text, languages=[*tags, *others], text_column=text_column, language_column=language_column,
        hold_out=hold_out,
    )  # fmt: skip
    source.check_source()
    fitted, held_out = source.load()
    tag = tags[0]
    if len(tags) > 1:
        tag, fitted, held_out = "mul", fitted.together(tags), held_out.together(tags)
    from neuroglot.run.shrink_plan import ShrinkSettings
    from neuroglot.run.shrink_tasks import built_in_tasks, opened_tasks
    from neuroglot.run.shrinking import check_shrink
    from neuroglot.run.shrinking import shrink as run

    wanted = [] if tasks == "none" else split(tasks)
    if wanted:
        with status("opening the tasks"):
            opened_tasks(wanted)  # what is wrong with them is said before a model is opened
    if wanted is None:
        wanted = [name for each in tags for name in built_in_tasks(each)]
    settings = checked(
        ShrinkSettings, share=share, tokens=tokens, characters=characters, even=even, salience=salience,
        heads=heads, heal=heal, learning_rate=learning_rate, seed=seed, tasks=wanted,
    )  # fmt: skip
    check_shrink(how.reader(), fitted, tag, settings, gguf)
    done = run(how.load(), fitted, tag, settings, folder, held_out=held_out, gguf=gguf)
    intact = done.bits["intact"]
    columns = {
        "bits a character": [f"{bits:.4f}" for bits in done.bits.values()],
        "times intact": [f"{bits / intact:.3f}" for bits in done.bits.values()],
        "95 % interval": [_between(done.intervals.get(name)) for name in done.bits],
    }
    print_table(columns, f"{', '.join(tags)}, {done.characters:,} characters", list(done.bits))
    for name, (before, after) in (("parameters", done.parameters), ("tokens", done.vocabulary)):
        out.print(f"{name}: {after:,} of {before:,} ({after / before:.1%})")
    out.print(f"neurons kept: {done.neurons:.1%}")
    if done.heads is not None:
        (query, key), (fewer, keys) = done.heads
        out.print(f"query heads a layer: {fewer} of {query}; key-value heads: {keys} of {key}")
    cut = done.tokenised
    out.print(f"held-out documents cut into other tokens: {cut.changed:,} of {cut.texts:,} ({cut.share:.1%})")
    of_languages = {
        "bits a character": [f"{both[1]:.4f}" for both in done.by_language.values()],
        "intact": [f"{both[0]:.4f}" for both in done.by_language.values()],
        "perplexity a token": [f"{both[1]:.2f}" for both in done.perplexity.values()],
        "intact ": [f"{both[0]:.2f}" for both in done.perplexity.values()],
    }
    print_table(of_languages, "language", list(done.by_language))
    costs = [done.costs["intact"], done.costs["shrunk"]]
    rows = {
        "safetensors, MB": [f"{each.safetensors / 1e6:,.1f}" for each in costs],
        "tokens a second": [f"{each.tokens_per_second:,.1f}" for each in costs],
    }
    if gguf is not None:
        rows["GGUF, MB"] = [f"{each.gguf / 1e6:,.1f}" for each in costs if each.gguf is not None]
    if all(each.llama_cpp is not None for each in costs):
        rows["llama.cpp, tokens a second"] = [f"{each.llama_cpp:,.1f}" for each in costs]
    print_table(rows, "cost", list(done.costs))
    if done.tasks:
        scores = {
            "intact": [f"{100 * each.intact:.1f}" for each in done.tasks.values()],
            "shrunk": [f"{100 * each.shrunk:.1f}" for each in done.tasks.values()],
            "items": [str(each.items) for each in done.tasks.values()],
            "p": ["" if each.p is None else f"{each.p:.2g}" for each in done.tasks.values()],
        }
        print_table(scores, "task", list(done.tasks))
    for prompt, continued in done.costs["shrunk"].examples:
        out.print(f"{prompt} → {' '.join(continued.split())}", markup=False)
    out.print(f"wrote {folder}" + ("" if gguf is None else f" and {gguf}"))


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _share(text: str) -> float:
    """`50%` or `0.5`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise NeuroglotError(f"--size takes a share of the parameters such as 50% or 0.5, not {text!r}.")
    return value
