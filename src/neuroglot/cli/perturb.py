"""`neuroglot perturb`: the perplexity-change matrix of a method's neurons."""

from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, out, print_table
from neuroglot.cli.options import HeldOutBlock, HeldOutTokens, MethodOption, RunArgument, Seeds

if TYPE_CHECKING:
    import pandas as pd

    from neuroglot.evaluate import Perturbation
    from neuroglot.model import Model
    from neuroglot.run import Run


@app.command()
def perturb(
    run: RunArgument,
    method: MethodOption = "lape",
    corpus: Annotated[
        str | None,
        typer.Option(help="Measure on this text. [default: what the run held out]", show_default=False),
    ] = None,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    seeds: Seeds = 3,
) -> None:
    """Switch each language's neurons off and measure every language's perplexity, beside random neurons.

    Can be stopped and started again with the same command: finished rows are kept.
    """
    from neuroglot.run import Run

    opened = Run.open(run)
    opened.neurons(method)  # say so now, before a model is loaded
    model = opened.manifest.model.load()
    perturb_run(opened, model, method, tokens=tokens, block=block, seeds=seeds, corpus=corpus)
    out.print(f"next: neuroglot report {run}")


def perturb_run(
    run: "Run", model: "Model", method: str, *, tokens: int, block: int | None, seeds: int, corpus: str | None
) -> None:
    """Measure the perplexity-change matrix of a method's neurons and keep it in the run."""
    from neuroglot.corpus import load_corpus
    from neuroglot.evaluate import perturb as measure

    run.check(model)
    held_out = load_corpus(corpus) if corpus else run.manifest.text.load()[1]
    result = measure(
        model,
        held_out,
        run.neurons(method),
        tokens=tokens,
        block=block,
        seeds=seeds,
        random_row="next percent" if method == "regions" else "largest",  # each as its paper has it
        matched=method == "regions",  # regions differ several times in size
        resume=run.perturbation_path(method),
    )
    run.manifest.perturb[method] = {
        "corpus": corpus or "held out",
        "tokens": tokens,
        "block": result.block,
        "seeds": seeds,
    }
    run.save()
    print_change(result)
    out.print(f"wrote {run.perturbation_path(method)}")


def print_change(result: "Perturbation") -> None:
    """Print the matrix, with the random rows' mean and deviation."""
    change: pd.DataFrame = result.change
    random = result.random_change
    rivals = {"random": random, "own size": result.matched_change}
    rows = [*change.index]
    cells = {tag: [f"{value:+.1%}" for value in change[tag]] for tag in change.columns}
    for name, rival in rivals.items():
        if not rival.empty:
            shown = ["mean"] if rival.loc["std"].isna().all() else ["mean", "std"]  # one draw has no deviation
            rows += [name, "± std"][: len(shown)]
            for tag, column in cells.items():
                column += [f"{float(rival[tag][row]):+.1%}" if tag in rival else "" for row in shown]
    print_table(cells, "off \\ measured", rows)
