"""`neuroglot compare`: all methods side by side, with equal budgets on the same text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, checked, numbers, out, print_table, split
from neuroglot.cli.methods import MethodCommand
from neuroglot.cli.options import (
    HeldOutBlock,
    HeldOutTokens,
    LanguageColumnOption,
    RunArgument,
    TextColumnOption,
    TrustOption,
    WorkersOption,
)
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    import pandas as pd


@app.command(cls=MethodCommand)
def compare(
    context: typer.Context,
    run: RunArgument,
    other: Annotated[
        Path | None,
        typer.Argument(
            help="A second run, of a model of the same shape, such as RUN's chat model: which neurons stay, and do "
            "RUN's sets ablate and steer it as well as its own?",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            "-m",
            help="Which, such as lape,random; they are below. [default: all that the run can do]",
            show_default=False,
        ),
    ] = None,
    units: Annotated[
        str, typer.Option(help="neurons, heads, or neurons,heads: as many heads as hold the same parameters.")
    ] = "neurons",
    budget: Annotated[float, typer.Option(help="Neurons a language, as a share of all, for every method.")] = 0.01,
    curve: Annotated[
        str | None, typer.Option(help="Further budgets, such as 0.001,0.003,0.03,0.1: the budget curves.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(help="Tokens a language, such as 500,1000,2000: the neurons that so much text finds."),
    ] = None,
    close: Annotated[
        str | None,
        typer.Option(
            help="The methods whose halves of the text, --curve and --texts are measured too. [default: all]",
            show_default=False,
        ),
    ] = None,
    tuned: Annotated[
        Path | None,
        typer.Option(help="Where `neuroglot tune` put the tuned models, one folder a language.", show_default=False),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Measure on this text. [default: what the run held out]", show_default=False)
    ] = None,
    tokens: HeldOutTokens = 100_000,
    block: HeldOutBlock = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many rows of random neurons.")] = 3,
    samples: Annotated[int, typer.Option(min=2, help="At most so many samples of a parallel corpus.")] = 100,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    defaults: Annotated[bool, typer.Option(help="Measure what each method chooses by itself.")] = True,
    workers: WorkersOption = 1,
    trust_remote_code: TrustOption = False,
) -> None:
    """Find neurons by every method, as many for each language, and measure which harm their own language alone.

    Can be stopped and started again with the same command, or with more methods and budgets: what is finished is kept.
    """
    from neuroglot.corpus.load import check_corpus, load_corpus
    from neuroglot.run.directory import Run

    if other is not None:
        refuse_unused(
            context, "where two runs are compared", "units", "curve", "texts", "close", "tuned", "corpus", "samples",
            "text_column", "language_column", "defaults", "workers",
        )  # fmt: skip
        _pair(run, other, split(methods), budget, tokens, block, seeds, trust_remote_code)
        return
    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.workers = workers
    current.check_recorded()
    current.check_model()
    if corpus is not None:
        check_corpus(corpus)
    budgets, lengths = numbers(curve or "", "--curve"), numbers(texts or "", "--texts")
    chosen, near = split(methods), split(close)
    _check_choices(chosen, near, budget, budgets, lengths)
    text, held_out = current.manifest.text.load()
    variants = {} if tuned is None else _tuned(tuned, text.languages)
    from neuroglot.languages.genealogy import distances
    from neuroglot.run.comparison import CompareSettings, check_lengths, check_methods, compare_run
    from neuroglot.run.evidence import possible

    if chosen is None:
        chosen, left = possible(current, text, variants)
        for sentence in left:
            out.print(f"left out: {sentence}", highlight=False)
    settings = checked(
        CompareSettings,
        methods=chosen,
        units=split(units),
        budget=budget,
        curve=budgets,
        texts=lengths,
        close=near,
        defaults=defaults,
        seeds=seeds,
        tokens=tokens,
        block=block,
        samples=samples,
        tuned=variants,
    )
    check_methods(current, text, settings)
    instead = None
    if corpus is not None:
        instead = load_corpus(corpus, text_column=text_column, language_column=language_column)
        instead = instead.tagged_as(text.languages)
    measured = held_out if instead is None else instead.select(text.languages)
    check_lengths(current, current.reader(), text, measured, settings)
    model = current.load_model()
    current.check(model)
    result = compare_run(current, model, settings, corpus=instead)
    print_summary(result.summary(distances(result.languages)), budget)
    out.print(f"wrote {current.comparison_path}")
    out.print(f"next: neuroglot report {run}")


def _pair(
    first: Path,
    second: Path,
    methods: list[str] | None,
    budget: float,
    tokens: int,
    block: int | None,
    seeds: int,
    trust_remote_code: bool,
) -> None:
    """Compare two runs of one shape."""
    from neuroglot.identify.registry import described
    from neuroglot.run.directory import Run

    if methods is not None and len(methods) > 1:
        raise NeuroglotError("Two runs are compared by one method; name one in --methods.")
    method = methods[0] if methods else "margin"
    described(method)
    base, tuned = Run.open(first), Run.open(second, trust_remote_code=trust_remote_code)
    for run in (base, tuned):
        run.check_recorded()
    tuned.check_model()
    from neuroglot.figures.pair import pair_findings
    from neuroglot.run.pair import PairSettings, check_pair, pair_runs

    settings = checked(PairSettings, method=method, budget=budget, tokens=tokens, block=block, seeds=seeds)
    check_pair(base, tuned, tuned.reader(), settings)
    table, _ = pair_runs(base, tuned, tuned.load_model(), settings)
    shown = {
        "neurons": [f"{value:,}" for value in table["second"]],
        "shared": [f"{value:,}" for value in table["shared"]],
        "by chance": [f"{value:,.1f}" for value in table["by_chance"]],
        "own, nats": [f"{value:.3f}" for value in table["own"]],
        "base's": [f"{value:.3f}" for value in table["base"]],
        "random": [f"{value:.3f}" for value in table["random"]],
        "own − base's, 95 %": [
            "" if low != low else f"{low:+.3f} to {high:+.3f}"
            for low, high in zip(table["low"].tolist(), table["high"].tolist(), strict=True)
        ],
    }
    for name in ("intact", "own", "base", "random"):
        if f"steer_{name}" in table:
            shown[f"raised: {name}"] = [f"{value:.1%}" for value in table[f"steer_{name}"]]
    print_table(shown, "language", [str(tag) for tag in table.index])
    for sentence in pair_findings(table):
        out.print(sentence, highlight=False)
    out.print(f"wrote {second / 'tables' / 'pair.csv'}")
    out.print(f"next: neuroglot report {second}")


def _check_choices(
    methods: list[str] | None, close: list[str] | None, budget: float, curve: list[float], texts: list[float]
) -> None:
    """Refuse unknown methods, and budgets and lengths that are none, before torch is imported."""
    from neuroglot.identify.registry import described, names

    for name in [*(methods or ()), *(close or ())]:
        described(name)
    apart = [name for name in close or () if name not in (methods or names())]
    if apart:
        raise NeuroglotError(f"--close names {apart[0]}, which --methods leaves out; name it in both.")
    for option, values in {"--budget": [budget], "--curve": curve}.items():
        if wrong := [value for value in values if not 0 < value <= 1]:
            raise NeuroglotError(f"{option} takes shares of all neurons above 0, up to 1, not {wrong[0]:g}.")
    if wrong := [value for value in texts if value < 1 or value != int(value)]:
        raise NeuroglotError(f"--texts takes numbers of tokens such as 500,1000, not {wrong[0]:g}.")


def _tuned(folder: Path, languages: tuple[str, ...]) -> dict[str, str]:
    """Language → its tuned model."""
    found = {tag: str(folder / tag) for tag in languages if (folder / tag).is_dir()}
    if not found:
        raise NeuroglotError(
            f"{folder} holds no folder named by a language, such as {languages[0]}; see neuroglot tune."
        )
    return found


def print_summary(summary: "pd.DataFrame", budget: float) -> None:
    """Print what each matrix says, in numbers: all evidence at the equal budget, then defaults."""
    shown = summary[(summary.part == "all") & ((summary.budget == budget) | summary.budget.isna())]
    own = shown.budget.isna()
    rows = [f"{name}{', default' if alone else ''}" for name, alone in zip(shown.method, own, strict=True)]
    held = [f"{value:.2%}" if value == value else "" for value in shown.get("parameters", shown.budget).tolist()]
    cells: dict[str, list[str]] = {
        "units": [f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in zip(shown.fewest, shown.most, strict=True)],
        "of parameters": held,
        "on target, nats": [f"{value:z.2f}" for value in shown.on_target],
        "off target, nats": [f"{value:.3f}" for value in shown.off_target],
        "selectivity": [f"{value:.1f}" for value in shown.selectivity],
        "95 %": [
            "" if a != a else f"{a:.1f} to {b:.1f}"
            for a, b in zip(shown.selectivity_low, shown.selectivity_high, strict=True)
        ],
        "diagonal-dominant": [f"{value}" for value in shown.diagonal_dominant],
        "split-half": [f"{value:z.2f}".replace("nan", "") for value in shown.split_half.tolist()],
        "seconds": [f"{value:,.0f}".replace("nan", "") for value in shown.seconds.tolist()],
        "rank r": [f"{value:z.2f}".replace("nan", "") for value in shown.relation.tolist()],
    }
    print_table(cells, "method", rows)
    if shown.selectivity_low.isna().all():
        out.print("no interval is known where a language has one block of held-out text; give more --tokens")
