"""`neuroglot evolve`: alignment over checkpoints of one model, or over sizes."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, checked, err, out, print_table, say, split
from neuroglot.cli.options import (
    DeviceOption,
    DtypeOption,
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    LanguagesOption,
    TextColumnOption,
    writable_folder,
)


@app.command()
def evolve(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Directories, hub ids or ID@REVISION, in the order of training or of size.")
    ],
    corpus: Annotated[str, typer.Option(help="A parallel corpus; every 5th sample is kept for perplexity.")],
    folder: Annotated[Path, typer.Option("--out", "-o", callback=writable_folder, help="Where the results go.")],
    languages: LanguagesOption = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Models of several sizes, not one in training.")] = False,
    samples: Annotated[int, typer.Option(min=2, help="Read at most so many samples.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cut a sample after so many tokens.")] = 200,
    threshold: Annotated[float, typer.Option(min=0, help="z-score of a key region's neurons.")] = 2.0,
    tokens: HeldOutTokens = 20_000,
    block: HeldOutBlock = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Measure alignment, regions and perplexity over checkpoints of one model, or over models of several sizes.

    Finished checkpoints are kept; one that fails is reported, and tried again the next time.
    """
    from neuroglot.corpus.load import load_corpus

    text = load_corpus(
        corpus,
        languages=split(languages),
        parallel=True,
        text_column=text_column,
        language_column=language_column,
    )
    read, held_out = text.split(5)
    read.check_parallel()
    from neuroglot.report.evolution import evolution_report
    from neuroglot.run.evolution import EvolveSettings
    from neuroglot.run.evolution import evolve as measure

    settings = checked(
        EvolveSettings,
        samples=samples,
        max_tokens=max_tokens,
        threshold=threshold,
        tokens=tokens,
        block=block,
        sizes=sizes,
        dtype=dtype,
        device=device,
    )
    measured = measure(checkpoints, read, folder, held_out=held_out, settings=settings, say=err.print)
    shown = measured.table.reindex(columns=["lrds", "sads", "sklr", "perplexity"])
    cells = {str(name): ["" if x != x else f"{x:,.4g}" for x in shown[name].astype(float)] for name in shown}
    print_table(cells, "checkpoint", [str(name) for name in measured.table["checkpoint"]])
    page = evolution_report(measured, folder, sizes=sizes)
    out.print(f"wrote {folder / 'tables'}, {folder / 'figures'}, {page}")
    failed = measured.table[measured.table["error"].notna()]
    for name, reason in zip(failed["checkpoint"], failed["error"], strict=True):
        say("failed", "red", f"{name}: {reason}")
    if len(failed):
        raise typer.Exit(1)
