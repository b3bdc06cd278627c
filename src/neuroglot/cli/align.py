"""`neuroglot align`: a parallel corpus's samples across languages, and the regions found in them."""

from typing import Annotated

import typer

from neuroglot.cli.app import app, out, print_table
from neuroglot.cli.identify import print_neurons
from neuroglot.cli.options import (
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    RunArgument,
    Seeds,
    TextColumnOption,
    TrustOption,
)
from neuroglot.cli.perturb import print_change
from neuroglot.cli.unused import refuse_unused


@app.command()
def align(
    context: typer.Context,
    run: RunArgument,
    corpus: Annotated[
        str | None,
        typer.Option(help="A parallel corpus. [default: what the run recorded]", show_default=False),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Read at most so many samples.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cut a sample after so many tokens.")] = 200,
    threshold: Annotated[float, typer.Option(min=0, help="z-score of a key region's neurons.")] = 2.0,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    measure: Annotated[bool, typer.Option(help="Ablate the regions: perplexity and continuations.")] = True,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    seeds: Seeds = 3,
    prompts: Annotated[int, typer.Option(min=0, help="Prompts a language to continue with its region ablated.")] = 2,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write after each.")] = 32,
    trust_remote_code: TrustOption = False,
) -> None:
    """Compare a parallel corpus's samples across languages: similarity map, LRDS, SADS, SES, dominance, key regions.

    Can be stopped and started again with the same command: samples and finished rows are kept.
    """
    from neuroglot.run.alignment import align_run, check_align, check_continued, continue_run
    from neuroglot.run.directory import Run
    from neuroglot.run.perturbation import measured_text, perturb_run
    from neuroglot.run.settings import AlignSettings

    if not measure:
        refuse_unused(context, "with --no-measure", "tokens", "block", "seeds", "prompts", "new_tokens")
    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.check_recorded()
    current.check_model()
    settings = AlignSettings(
        corpus=corpus,
        text_column=text_column,
        language_column=language_column,
        samples=samples,
        max_tokens=max_tokens,
        threshold=threshold,
    )
    parallel = check_align(current, settings)
    reader = current.reader()
    from neuroglot.recording.record_samples import check_samples

    check_samples(reader, parallel, samples=samples, max_tokens=max_tokens, missing="drop")
    if measure:
        from neuroglot.evaluate.likelihood.perplexity import check_held_out

        check_held_out(reader, measured_text(current), tokens=tokens, block=block)
        check_continued(current, reader, parallel.languages, prompts, new_tokens)
    aligned = align_run(current, settings)
    if aligned.regions is not None:
        print_neurons(current, "regions", aligned.regions)
    scores = aligned.scores
    cells = {str(name): ["–" if value != value else f"{value:.4f}" for value in scores[name]] for name in scores}
    print_table(cells, "", [str(score).upper() for score in scores.index])
    out.print(f"wrote {current.samples_path}")
    if aligned.regions is not None and measure:
        result = perturb_run(current, aligned.model, "regions", tokens=tokens, block=block, seeds=seeds, corpus=None)
        print_change(current, "regions", result)
        continue_run(current, aligned.model, prompts, new_tokens)
        out.print(f"wrote {current.continuations_path}")
    out.print(f"next: neuroglot report {run}")
