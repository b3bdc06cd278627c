"""`neuroglot align`: a parallel corpus's samples across languages, and the regions found in them."""

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, err, out, print_table
from neuroglot.cli.identify import keep_neurons
from neuroglot.cli.options import HeldOutBlock, HeldOutTokens, RunArgument, Seeds
from neuroglot.cli.perturb import perturb_run
from neuroglot.errors import NeuroglotError, NeuroglotWarning

if TYPE_CHECKING:
    from neuroglot.model import Model
    from neuroglot.run import AlignSettings, Run


@app.command()
def align(
    run: RunArgument,
    corpus: Annotated[
        str | None,
        typer.Option(help="A parallel corpus. [default: what the run recorded]", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Read at most so many samples.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cut a sample after so many tokens.")] = 200,
    threshold: Annotated[float, typer.Option(min=0, help="z-score of a key region's neurons.")] = 2.0,
    measure: Annotated[bool, typer.Option(help="Switch the regions off: perplexity and continuations.")] = True,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    seeds: Seeds = 3,
    prompts: Annotated[int, typer.Option(min=0, help="Prompts a language to continue with its region off.")] = 2,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each.")] = 32,
) -> None:
    """Compare a parallel corpus's samples across languages: similarity map, LRDS, SADS, SES, dominance, key regions.

    Can be stopped and started again with the same command: samples and finished rows are kept.
    """
    from neuroglot.run import AlignSettings, Run

    opened = Run.open(run)
    settings = AlignSettings(corpus=corpus, samples=samples, max_tokens=max_tokens, threshold=threshold)
    found, model = align_run(opened, settings)
    if found and measure:
        perturb_run(opened, model, "regions", tokens=tokens, block=block, seeds=seeds, corpus=None)
        continue_run(opened, model, prompts, new_tokens)
    out.print(f"next: neuroglot report {run}")


def align_run(run: "Run", settings: "AlignSettings") -> "tuple[bool, Model]":
    """Record the samples and find the regions, if the threshold can be reached."""
    from neuroglot import alignment
    from neuroglot.corpus import load_corpus
    from neuroglot.identify import key_regions
    from neuroglot.recording import record_samples

    corpus = load_corpus(settings.corpus) if settings.corpus else run.manifest.text.load()[0]
    next(corpus.samples())  # say so now if it is not parallel, before a model is loaded
    model = run.manifest.model.load()
    run.check(model)
    samples = record_samples(
        model,
        corpus,
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        missing="drop",
        directory=run.samples_path,
    )
    found = True
    try:
        regions = key_regions(samples, threshold=settings.threshold)
    except NeuroglotError as error:
        warnings.warn(f"No regions. {error}", NeuroglotWarning, stacklevel=2)
        found = False
    else:
        keep_neurons(run, "regions", regions, {"threshold": settings.threshold, "samples": len(samples)})
    run.manifest.align = settings
    run.save()
    summary = alignment.summary(samples)
    cells = {str(name): [f"{value:.4f}" for value in summary[name]] for name in summary}
    print_table(cells, "", [str(score).upper() for score in summary.index])
    out.print(f"wrote {run.samples_path}")
    return found, model


def continue_run(run: "Run", model: "Model", prompts: int, tokens: int) -> None:
    """Write beginnings on with each region off, and keep the table."""
    from neuroglot.evaluate import beginnings, continuations
    from neuroglot.files import save_text

    regions = run.neurons("regions")
    held_out = run.manifest.text.load()[1]
    common = held_out.select([tag for tag in held_out.languages if tag in regions.languages])
    with err.status("writing with each region off"):
        table = continuations(model, beginnings(model, common, prompts=prompts), regions, tokens=tokens)
    save_text(run.continuations_path, table.to_csv(index=False, lineterminator="\n"))
    out.print(f"wrote {run.continuations_path}")
