"""`neuroglot perturb`: the perplexity-change matrix of a method's neurons."""

from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, out, print_table
from neuroglot.cli.options import (
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    MethodOption,
    RunArgument,
    Seeds,
    TextColumnOption,
)

if TYPE_CHECKING:
    import pandas as pd

    from neuroglot.evaluate.ablation.perturbation import Perturbation
    from neuroglot.run.directory import Run


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
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
) -> None:
    """Ablate each language's neurons and measure every language's perplexity, beside a random baseline.

    Can be stopped and started again with the same command: finished rows are kept.
    """
    from neuroglot.corpus.load import check_corpus
    from neuroglot.run.directory import Run
    from neuroglot.run.perturbation import perturb_run

    current = Run.open(run)
    current.check_neurons(method)
    if corpus is not None:
        check_corpus(corpus)
    model = current.manifest.model.load()
    result = perturb_run(
        current, model, method, tokens=tokens, block=block, seeds=seeds, corpus=corpus, text_column=text_column,
        language_column=language_column,
    )  # fmt: skip
    print_change(current, method, result)
    out.print(f"next: neuroglot report {run}")


def print_change(run: "Run", method: str, result: "Perturbation") -> None:
    """Print the matrix, with the random rows' mean and deviation, and where it is."""
    change: pd.DataFrame = result.change
    random = result.random_change
    rivals = {"random": random, "size-matched": result.matched_change}
    rows = [*change.index]
    cells = {tag: [f"{value:+.1%}" for value in change[tag]] for tag in change.columns}
    for name, rival in rivals.items():
        if not rival.empty:
            shown = ["mean"] if rival.loc["std"].isna().all() else ["mean", "std"]  # one draw has no deviation
            rows += [name, "± std"][: len(shown)]
            for tag, column in cells.items():
                column += [f"{float(rival[tag][row]):+.1%}" if tag in rival else "" for row in shown]
    print_table(cells, "off \\ measured", rows)
    out.print(f"wrote {run.perturbation_path(method)}")
