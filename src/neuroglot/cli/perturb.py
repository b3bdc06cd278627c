"""`neuroglot perturb`: the perplexity-change matrix of a method's neurons."""

from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, out, percent, print_table
from neuroglot.cli.options import (
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    MethodOption,
    RunArgument,
    Seeds,
    TextColumnOption,
    TrustOption,
    UnitsOption,
    WorkersOption,
    units_named,
)

if TYPE_CHECKING:
    import pandas as pd

    from neuroglot.evaluate.ablation.matrix import Perturbation
    from neuroglot.run.directory import Run


@app.command()
def perturb(
    run: RunArgument,
    method: MethodOption = "lape",
    units: UnitsOption = "neurons",
    corpus: Annotated[
        str | None,
        typer.Option(help="Measure on this text. [default: what the run held out]", show_default=False),
    ] = None,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    seeds: Seeds = 3,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    size_matched: Annotated[
        bool | None,
        typer.Option(
            "--size-matched/--no-size-matched",
            help="Measure random sets of each language's own size too, so many seeds. [default: of regions only]",
            show_default=False,
        ),
    ] = None,
    workers: WorkersOption = 1,
    trust_remote_code: TrustOption = False,
) -> None:
    """Ablate each language's neurons and measure every language's perplexity, beside a random baseline.

    Can be stopped and started again with the same command: finished rows are kept.
    """
    of = units_named(units)
    from neuroglot.corpus.load import check_corpus
    from neuroglot.identify.units import of_units
    from neuroglot.run.directory import Run
    from neuroglot.run.perturbation import measured_text, perturb_run

    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.workers = workers
    method = of_units(method, of)
    current.check_neurons(method, of)
    current.check_model()
    if corpus is not None:
        check_corpus(corpus)
    text = measured_text(current, corpus, text_column=text_column, language_column=language_column)
    text = text.tagged_as(current.neurons(method, of).languages)
    reader = current.reader()
    from neuroglot.evaluate.likelihood.perplexity import check_held_out

    check_held_out(reader, text, tokens=tokens, block=block)
    if (before := current.perturbation_path(method)).is_file():  # importing what follows takes a moment
        from neuroglot.evaluate.ablation.perturbation import check_resumable

        check_resumable(reader, text, tokens=tokens, block=block, resume=before)
    model = current.load_model()
    result = perturb_run(
        current, model, method, tokens=tokens, block=block, seeds=seeds, corpus=corpus, text_column=text_column,
        language_column=language_column, matched=size_matched,
    )  # fmt: skip
    print_change(current, method, result)
    out.print(f"next: neuroglot report {run}")


def print_change(run: "Run", method: str, result: "Perturbation") -> None:
    """Print the matrix, with the random rows' mean and deviation, the effects on target, and where it is."""
    from neuroglot.figures.words import baseline_findings, on_target_texts

    change: pd.DataFrame = result.change
    random = result.random_change
    rivals = {"random": random, "size-matched": result.matched_change}
    rows = [*change.index]
    cells = {tag: [percent(value) for value in change[tag]] for tag in change.columns}
    for name, rival in rivals.items():
        if not rival.empty:
            shown = ["mean"] if rival.loc["std"].isna().all() else ["mean", "std"]  # one draw has no deviation
            rows += [name, "± std"][: len(shown)]
            for tag, column in cells.items():
                column += [percent(float(rival[tag][row])) if tag in rival else "" for row in shown]
    print_table(cells, "off \\ measured", rows)
    names, *columns = zip(*on_target_texts(result), strict=True)
    heads = [result.units, "change", "95 %", "random", "± std", "ΔNLL beyond it", "its 95 %"]
    print_table({head: [*cells] for head, cells in zip(heads, columns, strict=True)}, "on target", [*names])
    for sentence in baseline_findings(result):
        out.print(sentence, highlight=False)
    out.print(f"wrote {run.perturbation_path(method)}")
