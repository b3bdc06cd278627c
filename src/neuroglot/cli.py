"""The command line. Thin: every command opens things, calls the library, and says what it wrote and where."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from neuroglot.errors import NeuroglotError, NeuroglotWarning

if TYPE_CHECKING:  # importing torch takes seconds, and --help should not
    import pandas as pd
    from pydantic import BaseModel

    from neuroglot.evaluate import Perturbation
    from neuroglot.model import Model
    from neuroglot.neurons import NeuronSet
    from neuroglot.run import AlignSettings, ModelSettings, RecordSettings, Run, TextSettings

S = TypeVar("S", bound="BaseModel")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find, measure and edit the language neurons of an LLM.\n\nThe order of work: record, identify, perturb, "
    "report. "
    "Try it first with [bold]neuroglot demo[/bold].",
)
out = Console()
err = Console(stderr=True)

DEMO_LANGUAGES = "en,zh,fr,es,vi,id"

ModelArgument = Annotated[
    str,
    typer.Argument(
        help="A directory, a Hugging Face hub id, a .gguf file, or packaged weights: gemma3-270m, smollm2-135m."
    ),
]
CorpusArgument = Annotated[
    str,
    typer.Argument(
        help="A directory of {language}.txt files; a .jsonl, .csv, .tsv or .parquet file with a language column or one "
        "column a language; hf:DATASET; or starter, the built-in corpus."
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(help="The run directory that `neuroglot record` made.", show_default=False)
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="The run directory. [default: runs/MODEL-CORPUS]", show_default=False),
]
LanguagesOption = Annotated[
    str | None,
    typer.Option("--languages", "-l", help="Only these, such as en,fr,zh. [default: all]", show_default=False),
]
MethodOption = Annotated[str, typer.Option("--method", "-m", help="Which neurons: lape, lap, lave or random.")]
HeldOutTokens = Annotated[int, typer.Option(min=1, help="Measure at most so many held-out tokens of each language.")]
HeldOutBlock = Annotated[
    int | None,
    typer.Option(
        help="Tokens a block. [default: the longest of 512, 256, … 32 that every language fills four times]",
        show_default=False,
    ),
]
Seeds = Annotated[int, typer.Option(min=1, help="How many random rows to measure for the baseline.")]


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Find, measure and edit the language neurons of an LLM."""
    if version:
        from neuroglot import __version__

        out.print(__version__)
        raise typer.Exit


@app.command()
def demo(
    folder: OutOption = None,
    languages: LanguagesOption = DEMO_LANGUAGES,
) -> None:
    """The main job on the built-in defaults: Gemma 3 270M, six languages of the starter corpus, in a few minutes.

    Reads the corpus, finds each language's neurons (LAPE), switches them off, measures what breaks, writes a report.
    """
    from neuroglot.run import ModelSettings, RecordSettings, TextSettings

    run, model = _record(
        folder or Path("runs/demo"),
        ModelSettings(source="gemma3-270m"),
        TextSettings(source="starter", languages=_split(languages)),
        RecordSettings(block=256, tokens=6_000),
    )
    _identify(run, "lape", {})
    _perturb(run, model, "lape", tokens=700, block=128, seeds=3, corpus=None)
    _report(run)


@app.command()
def record(
    model: ModelArgument,
    corpus: CorpusArgument,
    folder: OutOption = None,
    languages: LanguagesOption = None,
    tokens: Annotated[int, typer.Option(min=1, help="Read at most so many tokens of each language.")] = 1_000_000,
    block: Annotated[int, typer.Option(min=2, help="Tokens a block, with BOS.")] = 512,
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a forward pass. [default: 1024 on a CPU, 16384 on a GPU]", show_default=False),
    ] = None,
    hold_out: Annotated[int, typer.Option(min=2, help="Keep every n-th document for measuring.")] = 5,
    experts: Annotated[
        int | None,
        typer.Option(min=1, help="Count the activations of so many experts a layer in the same pass; see experts."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")] = "auto",
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda, cuda:1, mps … [default: a GPU if there is one]", show_default=False),
    ] = None,
    device_map: Annotated[str | None, typer.Option(help="Spread a large model over devices: auto.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")] = False,
) -> None:
    """Read a corpus once and keep the statistics of every neuron, by language.

    Can be stopped and started again with the same command: finished shards are kept.
    """
    from neuroglot.run import ExpertSettings, ModelSettings, RecordSettings, TextSettings

    model_settings = _checked(
        ModelSettings,
        source=model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
    )
    text = TextSettings(source=corpus, languages=_split(languages), text_column=text_column, hold_out=hold_out)
    recording = RecordSettings(tokens=tokens, block=block, batch_tokens=batch_tokens)
    if experts is not None:
        recording.experts = ExpertSettings(experts=experts)
    run, _ = _record(folder or _default_folder(model, corpus), model_settings, text, recording)
    out.print(f"next: neuroglot identify {run.path}")


@app.command()
def identify(
    run: RunArgument,
    method: MethodOption = "lape",
    top_fraction: Annotated[
        float | None,
        typer.Option(help="Share of all neurons to choose (lape, lave, random). [default: 0.01]", show_default=False),
    ] = None,
    activity_quantile: Annotated[
        float | None,
        typer.Option(
            help="Only neurons above this quantile of all values count (lape, lave). [default: 0.95]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Probability a neuron must exceed (lap). [default: 0.95]", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw (random). [default: 0]", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--import",
            help="Take someone else's neurons, a .safetensors or .neuron.pth, as the method `imported`.",
            show_default=False,
        ),
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="The languages of a .neuron.pth, in its order.", show_default=False)
    ] = None,
) -> None:
    """Find each language's neurons in a recording. Takes seconds; try other settings as you like."""
    from neuroglot.run import Run

    if file is not None:
        from neuroglot.neurons import NeuronSet

        opened = Run.open(run)
        recording = opened.recording
        shape = (recording.layers, recording.neurons)
        imported = NeuronSet.load(file, languages=_split(languages), shape=shape)
        _keep_neurons(opened, "imported", imported, {"file": str(file)})
        out.print(f"next: neuroglot perturb {run} --method imported")
        return
    given = {
        "top_fraction": top_fraction,
        "activity_quantile": activity_quantile,
        "threshold": threshold,
        "seed": seed,
    }
    opened = Run.open(run)
    _identify(opened, method, {name: value for name, value in given.items() if value is not None})
    out.print(f"next: neuroglot perturb {run} --method {method}")


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
    _perturb(opened, model, method, tokens=tokens, block=block, seeds=seeds, corpus=corpus)
    out.print(f"next: neuroglot report {run}")


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
    found, model = _align(opened, settings)
    if found and measure:
        _perturb(opened, model, "regions", tokens=tokens, block=block, seeds=seeds, corpus=None)
        _continue(opened, model, prompts, new_tokens)
    out.print(f"next: neuroglot report {run}")


@app.command()
def evolve(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Directories, hub ids or ID@REVISION, in the order of training or of size.")
    ],
    corpus: Annotated[str, typer.Option(help="A parallel corpus; every 5th sample is kept for perplexity.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the results go.")],
    languages: LanguagesOption = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Models of several sizes, not one in training.")] = False,
    samples: Annotated[int, typer.Option(min=2, help="Read at most so many samples.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=1, help="Cut a sample after so many tokens.")] = 200,
    threshold: Annotated[float, typer.Option(min=0, help="z-score of a key region's neurons.")] = 2.0,
    tokens: HeldOutTokens = 20_000,
    block: HeldOutBlock = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda …", show_default=False)] = None,
) -> None:
    """Measure alignment, regions and perplexity over checkpoints of one model, or over models of several sizes.

    Finished checkpoints are kept; one that fails is reported, and tried again the next time.
    """
    from neuroglot.corpus import load_corpus
    from neuroglot.evolve import EvolveSettings
    from neuroglot.evolve import evolve as measure
    from neuroglot.report import evolution_report

    settings = _checked(
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
    read, held_out = load_corpus(corpus, languages=_split(languages)).split(5)
    measured = measure(checkpoints, read, folder, held_out=held_out, settings=settings, say=err.print)
    shown = measured.table.reindex(columns=["lrds", "sads", "sklr", "perplexity"])
    cells = {str(name): ["" if x != x else f"{x:,.4g}" for x in shown[name].astype(float)] for name in shown}
    _print_table(cells, "checkpoint", [str(name) for name in measured.table["checkpoint"]])
    page = evolution_report(measured, folder, sizes=sizes)
    out.print(f"wrote {folder / 'tables'}, {folder / 'figures'}, {page}")
    failed = measured.table[measured.table["error"].notna()]
    for name, reason in zip(failed["checkpoint"], failed["error"], strict=True):
        err.print(f"[red]failed:[/red] {name}: {reason}", highlight=False, soft_wrap=True)
    if len(failed):
        raise typer.Exit(1)


@app.command()
def experts(
    run: RunArgument,
    number: Annotated[int, typer.Option("--experts", min=1, help="How many a layer.")] = 256,
    kind: Annotated[str, typer.Option(help="parameter (balanced k-means), random or contiguous.")] = "parameter",
    seed: Annotated[int, typer.Option(help="Of the clustering or the shuffle.")] = 0,
    top: Annotated[str, typer.Option(help="Shares of all experts activated on a token, such as 0.05,0.1.")] = "0.1",
) -> None:
    """Group neurons into experts, count how often each language activates them, and compare the languages.

    Can be stopped and started again with the same command: finished shards are kept.
    """
    from neuroglot.run import ExpertSettings, Run

    opened = Run.open(run)
    settings = _checked(ExpertSettings, experts=number, kind=kind, seed=seed, top=_numbers(top, "--top"))
    model = opened.manifest.model.load()
    made = opened.record_experts(model, opened.manifest.text.load()[0], settings)
    out.print(f"counted {number} experts a layer in {len(made.languages)} languages: {run / 'experts'}")
    out.print(f"next: neuroglot report {run}, or neuroglot prune {run}")


@app.command()
def prune(
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
    max_perplexity_increase: Annotated[
        float | None, typer.Option(min=0, help="Remove as much as costs no more than this: 0.05 is 5 %.")
    ] = None,
    salience: Annotated[
        str, typer.Option(help="What a budget ranks experts by: frequency, magnitude or active.")
    ] = "magnitude",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the pruned model here (of one language and choice).", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Measure on so many held-out samples of each language.")] = 1_000,
    seeds: Seeds = 3,
) -> None:
    """Keep only the experts that a language uses, measure what that costs beside random ones, and write the model."""
    from neuroglot.run import Run

    opened = Run.open(run)
    chosen = _split(languages) or list(opened.expert_recording.languages)
    if max_perplexity_increase is None and not (threshold or share or budget):
        threshold = "0.05,0.01"
    rules = [
        (name, value)
        for name, text in (("threshold", threshold), ("share", share), ("budget", budget))
        if text
        for value in _numbers(text, f"--{name}")
    ]
    if folder is not None and (len(chosen), len(rules) + (max_perplexity_increase is not None)) != (1, 1):
        raise NeuroglotError("--out writes one model: give one language and one choice of experts.")
    from neuroglot.prune_run import prune_run

    model = opened.manifest.model.load()
    table, written = prune_run(
        opened, model, chosen, rules, limit=max_perplexity_increase, salience=salience, samples=samples, seeds=seeds,
        path=folder,
    )  # fmt: skip
    columns = {name: [f"{value:.3g}" if isinstance(value, float) else str(value) for value in table[name]]
               for name in table.columns if name not in ("choice",)}  # fmt: skip
    _print_table(columns, "choice", list(table.choice))
    out.print(f"wrote {run / 'experts' / 'pruning.csv'}")
    for line in written:
        out.print(line)


@app.command()
def report(run: RunArgument) -> None:
    """Write the tables, the figures and one self-contained page of everything a run holds so far."""
    from neuroglot.run import Run

    _report(Run.open(run))


# --- what the commands share -----------------------------------------------------------------------------------------


def _checked(kind: "type[S]", /, **values: Any) -> "S":
    """Settings from options, or one sentence on the option that is wrong."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        raise NeuroglotError(f"--{error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}.") from error


def _split(languages: str | None) -> list[str] | None:
    return [tag.strip() for tag in languages.split(",") if tag.strip()] if languages else None


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise NeuroglotError(f"{option} takes numbers such as 0.05,0.01, not {text!r}.") from error


def _default_folder(model: str, corpus: str) -> Path:
    name = "-".join(Path(part.split("?")[0].removeprefix("hf:")).stem for part in (model, corpus))
    return Path("runs") / name


def _record(
    folder: Path, model_settings: "ModelSettings", text: "TextSettings", recording: "RecordSettings"
) -> "tuple[Run, Model]":
    from neuroglot.run import Run

    to_record, _ = text.load()
    if len(to_record.languages) < 2:
        raise NeuroglotError(
            f"{text.source} gives only {to_record.languages[0]}; every method compares languages, so give at least two."
        )
    with err.status(f"opening {model_settings.source} (a GGUF file takes a minute or two the first time)"):
        model = model_settings.load()
    run = Run.create(folder, model_settings, text, recording)
    made = run.record(model, to_record)
    out.print(
        f"recorded {int(made.tokens.sum()):,} tokens in {len(made.languages)} languages: {run.path / 'recording'}"
    )
    return run, model


def _identify(run: "Run", method: str, settings: dict[str, Any]) -> None:
    from inspect import signature

    from neuroglot.identify import METHODS

    if method not in METHODS:
        raise NeuroglotError(f"{method} is not a method; choose among {', '.join(METHODS)}.")
    accepted = signature(METHODS[method]).parameters
    unused = [name for name in settings if name not in accepted]
    if unused:
        raise NeuroglotError(f"{method} has no {unused[0].replace('_', '-')}; leave the option out.")
    neurons = METHODS[method](run.recording, **settings)
    defaults = {name: p.default for name, p in accepted.items() if p.default is not p.empty}
    _keep_neurons(run, method, neurons, defaults | settings)


def _keep_neurons(run: "Run", method: str, neurons: "NeuronSet", settings: dict[str, Any]) -> None:
    neurons.save(run.neurons_path(method))
    run.manifest.identify[method] = settings
    if run.manifest.perturb.pop(method, None) is not None:
        run.perturbation_path(method).unlink(missing_ok=True)  # it measured other neurons
    run.save()
    _print_table({tag: [f"{count:,}"] for tag, count in neurons.sizes().items()}, "neurons", [method])
    out.print(f"wrote {run.neurons_path(method)}")


def _perturb(
    run: "Run", model: "Model", method: str, *, tokens: int, block: int | None, seeds: int, corpus: str | None
) -> None:
    from neuroglot.corpus import load_corpus
    from neuroglot.evaluate import perturb as measure

    _check_model(run, model)
    held_out = load_corpus(corpus) if corpus else run.manifest.text.load()[1]
    result = measure(
        model,
        held_out,
        run.neurons(method),
        tokens=tokens,
        block=block,
        seeds=seeds,
        random_row="next percent" if method == "regions" else "largest",  # each as its paper has it
        resume=run.perturbation_path(method),
    )
    run.manifest.perturb[method] = {
        "corpus": corpus or "held out",
        "tokens": tokens,
        "block": result.block,
        "seeds": seeds,
    }
    run.save()
    _print_change(result)
    out.print(f"wrote {run.perturbation_path(method)}")


def _align(run: "Run", settings: "AlignSettings") -> "tuple[bool, Model]":
    """Record the samples and find the regions, if the threshold can be reached."""
    from neuroglot import alignment
    from neuroglot.corpus import load_corpus
    from neuroglot.identify import key_regions
    from neuroglot.recording import record_samples

    corpus = load_corpus(settings.corpus) if settings.corpus else run.manifest.text.load()[0]
    next(corpus.samples())  # say so now if it is not parallel, before a model is loaded
    model = run.manifest.model.load()
    _check_model(run, model)
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
        _keep_neurons(run, "regions", regions, {"threshold": settings.threshold, "samples": len(samples)})
    run.manifest.align = settings
    run.save()
    summary = alignment.summary(samples)
    cells = {str(name): [f"{value:.4f}" for value in summary[name]] for name in summary}
    _print_table(cells, "", [str(score).upper() for score in summary.index])
    out.print(f"wrote {run.samples_path}")
    return found, model


def _continue(run: "Run", model: "Model", prompts: int, tokens: int) -> None:
    from neuroglot.evaluate import beginnings, continuations
    from neuroglot.files import save_text

    regions = run.neurons("regions")
    held_out = run.manifest.text.load()[1]
    common = held_out.select([tag for tag in held_out.languages if tag in regions.languages])
    with err.status("writing with each region off"):
        table = continuations(model, beginnings(model, common, prompts=prompts), regions, tokens=tokens)
    save_text(run.continuations_path, table.to_csv(index=False, lineterminator="\n"))
    out.print(f"wrote {run.continuations_path}")


def _check_model(run: "Run", model: "Model") -> None:
    provenance = run.recording.provenance
    if provenance is not None and provenance.fingerprint != model.fingerprint:
        raise NeuroglotError(
            f"{model.name} is not the model this run recorded (its weights changed since); record again into "
            "another --out."
        )


def _print_change(result: "Perturbation") -> None:
    change: pd.DataFrame = result.change
    random = result.random_change
    rows = [*change.index, "random", "± std"]
    cells = {
        tag: [f"{value:+.1%}" for value in [*change[tag], random.loc["mean", tag], random.loc["std", tag]]]
        for tag in change.columns
    }
    _print_table(cells, "off \\ measured", rows)


def _print_table(columns: dict[str, list[str]], corner: str, rows: list[str]) -> None:
    table = Table(corner, *(tag for tag in columns), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for i, row in enumerate(rows):
        table.add_row(row, *(values[i] for values in columns.values()))
    out.print(table)


def _report(run: "Run") -> None:
    from neuroglot.report import report as write

    page = write(run)
    out.print(f"wrote {run.path / 'tables'}, {run.path / 'figures'}, {page}")


def main() -> None:
    """Run the command line: bad input is one sentence and exit status 2, never a traceback."""

    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, NeuroglotWarning):
            err.print(f"[yellow]note:[/yellow] {message}", highlight=False, soft_wrap=True)

    warnings.showwarning = show
    try:
        app()
    except NeuroglotError as error:
        err.print("[red]error:[/red]", end=" ")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from what is finished.")
        sys.exit(130)


if __name__ == "__main__":
    main()
