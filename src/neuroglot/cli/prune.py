"""`neuroglot prune`: a smaller model that keeps what a language uses."""

import math
from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, numbers, out, print_table, split
from neuroglot.cli.options import RunArgument, Seeds, TrustOption, writable, writable_file
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import check_file
from neuroglot.storage.made import check_place


@app.command()
def prune(
    context: typer.Context,
    run: RunArgument,
    languages: Annotated[
        str | None, typer.Option("--languages", "-l", help="Whose experts to keep. [default: all]", show_default=False)
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Keep experts of at least these frequencies, such as 0.05,0.01.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Keep these shares of each layer's experts: 0.7,0.8,0.9.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Remove these shares of all experts, where it costs least.")
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(
            help="Of a native mixture of experts: keep these shares of each expert's neurons, by magnitude: 0.5,0.75.",
            show_default=False,
        ),
    ] = None,
    max_perplexity_increase: Annotated[
        float | None, typer.Option(min=0, help="Remove as much as costs no more than this: 0.05 is 5 %.")
    ] = None,
    salience: Annotated[
        str | None,
        typer.Option(
            help="What a budget ranks experts by: frequency, magnitude or active. [default: magnitude; of a native "
            "mixture of experts without it in its recording (record --statistic magnitude), frequency]",
            show_default=False,
        ),
    ] = None,
    ranking: Annotated[
        Path | None,
        typer.Option(
            callback=writable_file,
            help='Write one language\'s experts by salience, a JSON line {"0": [5, 2, …]} a layer.',
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable,
            help="Write the pruned model of one language and choice: a directory, or a .gguf file for llama.cpp.",
            show_default=False,
        ),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(
            help="The intact model's .gguf file, to prune. [default: what the run's model was read from]",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Measure on so many held-out samples of each language.")] = 1_000,
    seeds: Seeds = 3,
    trust_remote_code: TrustOption = False,
) -> None:
    """Keep only the experts that a language uses, measure what that costs beside random ones, and write the model."""
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run

    current = Run.open(run, trust_remote_code=trust_remote_code)
    native = current.native_experts()
    if not native:
        current.check_experts()
    current.check_model()
    if budget is None and max_perplexity_increase is None and ranking is None:
        refuse_unused(context, "without --budget, --max-perplexity-increase or --ranking", "salience")
    if folder is None or folder.suffix != ".gguf":
        refuse_unused(context, "without an --out that ends in .gguf", "gguf")
    if max_perplexity_increase is None and not (threshold or share or budget or width):
        threshold = "0.05,0.01"
    rules = [
        (name, value)
        for name, text in (("threshold", threshold), ("share", share), ("budget", budget), ("width", width))
        if text
        for value in numbers(text, f"--{name}")
    ]
    counting = current.recording if native else current.expert_recording
    salience = salience or ("frequency" if native and "magnitude" not in counting.sums else "magnitude")
    _check_choices(rules, max_perplexity_increase, salience, folder, gguf)
    if width is not None:
        if not native:
            raise NeuroglotError(f"{current.manifest.model.source} is dense, so --width has no meaning; give --budget.")
        counting.check_recorded("magnitude")
    if salience != "frequency":
        counting.check_recorded(salience)
    counted = counting.languages
    chosen = [language_tag(tag) for tag in split(languages) or counted]
    if unknown := [tag for tag in chosen if tag not in counted]:
        raise NeuroglotError(f"{run} has not counted experts in {unknown[0]}; it has {', '.join(counted)}.")
    if folder is not None and (len(chosen), len(rules) + (max_perplexity_increase is not None)) != (1, 1):
        raise NeuroglotError("--out writes one model: give one language and one choice of experts.")
    if ranking is not None and len(chosen) != 1:
        raise NeuroglotError("--ranking writes one language's order; give one language.")
    from neuroglot.run.pruning import intact_file, prune_run, rank_experts

    intact_file(current, folder, gguf)
    model = current.load_model()
    table, written = prune_run(
        current, model, chosen, rules, limit=max_perplexity_increase, salience=salience, samples=samples, seeds=seeds,
        path=folder, gguf=gguf,
    )  # fmt: skip
    columns = {name: [f"{value:.3g}".replace("nan", "–") if isinstance(value, float) else str(value)
                      for value in table[name]] for name in table.columns if name != "choice"}  # fmt: skip
    print_table(columns, "choice", list(table.choice))
    out.print(f"wrote {run / 'experts' / 'pruning.csv'}")
    for line in written:
        out.print(line)
    if ranking is not None:
        out.print(f"wrote {rank_experts(current, model, chosen[0], salience, ranking)}")


def _check_choices(
    rules: list[tuple[str, float]], limit: float | None, salience: str, folder: Path | None, gguf: Path | None
) -> None:
    """Refuse shares that are none, an unknown salience, and a place that is taken, before a model is opened."""
    for name, value in rules:
        if not 0 <= value <= 1 or (name in ("share", "width") and value == 0) or (name == "budget" and value == 1):
            ends = {
                "threshold": "from 0 to 1",
                "share": "above 0, up to 1",
                "width": "above 0, up to 1",
                "budget": "from 0, below 1",
            }[name]
            raise NeuroglotError(f"--{name} takes shares {ends}, not {value:g}.")
    if limit is not None and not math.isfinite(limit):
        raise NeuroglotError("--max-perplexity-increase takes a number such as 0.05.")
    if folder is not None and folder.suffix != ".gguf":  # what is in a .gguf file is said by what writes one
        check_place(folder, "pruned model (--out)")
    if gguf is not None:
        check_file(gguf, "give the intact model's .gguf file")
    from neuroglot.experts.keep import SALIENCES

    if salience not in SALIENCES:
        raise NeuroglotError(f"--salience takes {', '.join(SALIENCES)}, not {salience!r}.")
