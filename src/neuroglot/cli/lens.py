"""`neuroglot lens`: which language the likeliest tokens are of, layer by layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, checked, out, print_table, split
from neuroglot.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    LanguagesOption,
    TextColumnOption,
    TrustOption,
    writable_folder,
)
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.evaluate.likelihood.lens import Lens
    from neuroglot.run.settings import LensSettings


@app.command()
def lens(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A run, or a model, which needs --corpus and --out.", metavar="RUN|MODEL")
    ],
    corpus: Annotated[
        str | None,
        typer.Option(help="With a model: the text. Every 5th document is read, the others' tokens are counted."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", callback=writable_folder, help="With a model: where the results go.")
    ] = None,
    languages: LanguagesOption = None,
    tokens: HeldOutTokens = 10_000,
    block: HeldOutBlock = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the likeliest tokens to look at.")] = 10,
    counted: Annotated[
        int, typer.Option(min=1, help="Count so many tokens of each language to say whose each token is.")
    ] = 200_000,
    share: Annotated[
        float, typer.Option(min=0.5, max=1, help="From which share over the languages a token is one's own.")
    ] = 0.8,
    least: Annotated[int, typer.Option(min=1, help="A token counted less often in all is of no language.")] = 2,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    bos: BosOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Read every layer through the final norm and the head: which language does the model think in?

    Prints the probability of each text's own tokens and of the language next to them, by layer.
    """
    from neuroglot.run.settings import LensSettings

    settings = checked(
        LensSettings, tokens=tokens, block=block, top=top, counted=counted, share=share, least=least
    )  # fmt: skip
    if (Path(model) / "run.json").is_file():
        refuse_unused(
            context, f"with {model}, which is a run and has its own model, text and folder",
            "corpus", "folder", "languages", "bos", "dtype", "device", "text_column", "language_column",
        )  # fmt: skip
        _of_run(Path(model), settings, trust_remote_code)
        return
    if corpus is None or folder is None:
        raise NeuroglotError(f"{model} is no run, and a model needs text and a folder: --corpus TEXT --out DIR.")
    from neuroglot.corpus.load import load_corpus
    from neuroglot.run.settings import ModelSettings

    source = checked(
        ModelSettings, source=model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, bos=bos
    )
    source.check_source()
    text = load_corpus(corpus, languages=split(languages), text_column=text_column, language_column=language_column)
    from neuroglot.evaluate.likelihood.lens import check_top
    from neuroglot.evaluate.likelihood.perplexity import check_held_out
    from neuroglot.report.lens import write_lens
    from neuroglot.run.lens import measure_lens

    counted_text, held_out = text.split(5)
    reader = source.reader(trust_remote_code=trust_remote_code)
    check_held_out(reader, held_out, tokens=tokens, block=block)
    check_top(reader, top)
    opened = source.load(trust_remote_code=trust_remote_code)
    found = measure_lens(opened, counted_text, held_out, settings)
    found.save(folder / "lens.safetensors")
    write_lens(found, folder, model)
    _show(found)
    out.print(f"wrote {folder / 'tables'}, {folder / 'figures'}")


def _of_run(path: Path, settings: "LensSettings", trust_remote_code: bool) -> None:
    from neuroglot.run.directory import Run

    run = Run.open(path, trust_remote_code=trust_remote_code)
    run.check_recorded()
    run.check_model()
    from neuroglot.evaluate.likelihood.lens import check_top
    from neuroglot.evaluate.likelihood.perplexity import check_held_out
    from neuroglot.run.lens import lens_run

    reader = run.reader()
    check_held_out(reader, run.manifest.text.load()[1], tokens=settings.tokens, block=settings.block)
    check_top(reader, settings.top)
    found = lens_run(run, run.load_model(), settings)
    _show(found)
    out.print(f"wrote {run.lens_path}")
    out.print(f"next: neuroglot report {path}")


def _show(found: "Lens") -> None:
    """Print the curves, a row a layer, and what they show."""
    from neuroglot.figures.lens import lens_findings

    table = found.curve()
    cells = {}
    for tag in found.languages:
        rows = table[table.language == tag]
        shown = [f"{own:.0%}" if own == own else "–" for own in rows.own.tolist()]
        if "other" in rows:
            beside = zip(shown, rows.other, rows.other_mass.tolist(), strict=True)
            shown = [f"{own} ({other} {mass:.0%})" for own, other, mass in beside]
        cells[tag] = shown
    print_table(cells, "layer \\ text in", [str(layer) for layer in range(1, found.layers + 1)])
    for sentence in lens_findings(found):
        out.print(sentence, highlight=False)
