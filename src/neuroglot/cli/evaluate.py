"""`neuroglot evaluate …`: what a model can do, intact or with a language's neurons ablated."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import app, checked, percent, print_table, split
from neuroglot.cli.options import (
    BosOption,
    CorpusArgument,
    DeviceOption,
    DtypeOption,
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    LanguagesOption,
    ModelArgument,
    TextColumnOption,
    TrustOption,
)
from neuroglot.errors import NeuroglotError

evaluate = typer.Typer(no_args_is_help=True, help="Measure what a model can do, intact or changed.")
app.add_typer(evaluate, name="evaluate")


@evaluate.command()
def perplexity(
    model: ModelArgument,
    corpus: CorpusArgument,
    languages: LanguagesOption = None,
    neurons: Annotated[
        Path | None,
        typer.Option(help="Neurons of this model, such as RUN/neurons/lape.safetensors.", show_default=False),
    ] = None,
    off: Annotated[
        str | None, typer.Option(help="Ablate these languages' neurons, such as fr,es.", show_default=False)
    ] = None,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    bos: BosOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Perplexity of each language of a corpus, and with `--neurons FILE --off fr` how much it changes."""
    from neuroglot.corpus.load import load_corpus
    from neuroglot.run.settings import ModelSettings

    if (neurons is None) != (off is None):
        raise NeuroglotError("--neurons and --off go together: whose neurons, and which language's.")
    if off is not None and not split(off):
        raise NeuroglotError("--off names no language; give some, such as fr,es.")
    settings = checked(
        ModelSettings, source=model, dtype=dtype, device=device, trust_remote_code=trust_remote_code, bos=bos
    )
    settings.check_source()
    text = load_corpus(corpus, languages=split(languages), text_column=text_column, language_column=language_column)
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.edit.interventions import Deactivate, intervene
    from neuroglot.evaluate.likelihood.perplexity import check_held_out
    from neuroglot.evaluate.likelihood.perplexity import perplexity as measure

    sets = NeuronSet.load(neurons).select(split(off) or []) if neurons is not None else None
    if sets is not None:
        settings.check_neurons(sets, trust_remote_code=trust_remote_code)
    check_held_out(settings.reader(trust_remote_code=trust_remote_code), text, tokens=tokens, block=block)
    loaded = settings.load(trust_remote_code=trust_remote_code)
    masks = [] if sets is None else list(sets.of_model(loaded).mask)
    rows, values = ["intact"], [measure(loaded, text, tokens=tokens, block=block)]
    if masks:
        with intervene(loaded, *map(Deactivate, masks)):
            rows.append(f"{off} off")
            values.append(measure(loaded, text, tokens=tokens, block=block))
    cells = {tag: [f"{value[tag]:,.2f}" for value in values] for tag in values[0]}
    if masks:
        rows.append("change")
        for tag, column in cells.items():
            column.append(percent(values[1][tag] / values[0][tag] - 1))
    print_table(cells, "perplexity", rows)
