"""`neuroglot evaluate generation`: language forcing in a run, beside intact answers and random neurons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import checked, out, print_table, share, split
from neuroglot.cli.evaluate import evaluate
from neuroglot.cli.options import (
    JudgePerMinuteOption,
    JudgeReadingOption,
    JudgeUrlOption,
    LanguageColumnOption,
    LayersOption,
    MethodOption,
    RunArgument,
    SiteOption,
    SteerOption,
    StrengthOption,
    TextColumnOption,
    TrustOption,
    WhenOption,
    WorkersOption,
    writable_folder,
)
from neuroglot.cli.steer import steering_settings
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.run.steering import Steered


@evaluate.command()
def generation(
    context: typer.Context,
    run: RunArgument,
    prompts: Annotated[
        str,
        typer.Option(help="questions, openings (for base models), or a file or folder of prompts as a corpus is."),
    ] = "openings",
    sources: Annotated[
        str | None,
        typer.Option(help="Languages to ask in. [default: the neurons' that have prompts]", show_default=False),
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="Languages to answer in. [default: the neurons']", show_default=False)
    ] = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    method: MethodOption = "lape",
    steer: SteerOption = "replace",
    site: SiteOption = "activation",
    strength: StrengthOption = 1.0,
    layers: LayersOption = None,
    when: WhenOption = "both",
    search: Annotated[
        bool,
        typer.Option(help="Find the best of many settings on half of the prompts, and report it on the other half."),
    ] = False,
    max_loss: Annotated[
        float, typer.Option(min=0, help="With --search: perplexity may exceed native answers' by this share.")
    ] = 1.0,
    ask: Annotated[
        bool, typer.Option(help="End each prompt with «answer in …» of the target, in its language.")
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --search: try neurons, directions and prompting, with so many answers at most, by successive "
            "halving.",
            show_default=False,
        ),
    ] = None,
    prompting: Annotated[
        str,
        typer.Option(
            help="Measure each condition with each of these prompts: none, I («answer in …» in English), II (in the "
            "target language)."
        ),
    ] = "none",
    identifier: Annotated[
        str, typer.Option(help="Who tells the language of an answer: lingua or fasttext.")
    ] = "lingua",
    relevance: Annotated[
        str | None,
        typer.Option(
            help="Rate from 0 to 2 whether answers are about their question, by rule (likelihood, no judge needed) or "
            "by the --judge; the steering score is its harmonic mean with the share in the target language.",
            show_default=False,
        ),
    ] = None,
    conditions: Annotated[
        str, typer.Option(help="What to measure, of intact, source off, raised, both, random.")
    ] = "intact,source off,raised,both,random",
    off: Annotated[
        bool, typer.Option("--off", help="Also each language's prompts with each language's neurons off.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many prompts a language.")] = 12,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens an answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="As the LAPE paper has it.")] = 1.1,
    batch: Annotated[int, typer.Option(min=1, help="Prompts a forward pass.")] = 16,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many random draws of neurons.")] = 1,
    judge: Annotated[
        str | None,
        typer.Option(help="Score answers 1 to 10 by this model, or with --relevance judge 0 to 2.", show_default=False),
    ] = None,
    judge_url: JudgeUrlOption = None,
    judge_reading: JudgeReadingOption = "reply",
    judge_per_minute: JudgePerMinuteOption = 60,
    workers: WorkersOption = 1,
    reader: Annotated[
        str | None,
        typer.Option(
            help="With --relevance rule: another model that reads the answers. [default: the run's]", show_default=False
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            callback=writable_folder,
            help="Write a recipe for each target into this folder, what a search chose if there was one.",
            show_default=False,
        ),
    ] = None,
    clas: Annotated[
        Path | None,
        typer.Option(
            callback=writable_folder,
            help="Write the answers in CLaS-Bench's shape into this folder, too.",
            show_default=False,
        ),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Ask in one language, steer to another, and measure whether the model obeys and still makes sense.

    Can be stopped and started again: finished answers and scores are kept.
    """
    from neuroglot.corpus.load import check_corpus
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run

    if search:
        why = "with --search, which tries many"
        refuse_unused(context, why, "steer", "site", "strength", "layers", "when")
    else:
        refuse_unused(context, "without --search", "budget", "max_loss")
    if judge is None:
        refuse_unused(context, "without --judge", "judge_url", "judge_reading", "judge_per_minute")
        if relevance == "judge":
            raise NeuroglotError("--relevance judge needs a judge; name a model with --judge, or say --relevance rule.")
    if relevance != "rule":
        refuse_unused(context, "without --relevance rule", "reader")
    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.workers = workers
    current.check_neurons(method)
    current.check_recorded()
    current.check_model()
    check_corpus(prompts)
    for tag in [*(split(sources) or ()), *(split(targets) or ())]:
        language_tag(tag)
    from neuroglot.corpus.prompts import PROMPTINGS
    from neuroglot.evaluate.steering.forcing import CONDITIONS
    from neuroglot.evaluate.steering.judge import JudgeSettings
    from neuroglot.generation.settings import Generation
    from neuroglot.languages.identifiers import IDENTIFICATIONS
    from neuroglot.run.steering import steer_run
    from neuroglot.run.steering_settings import SteeringSettings

    chosen = split(conditions) or list(CONDITIONS)
    if wrong := [name for name in chosen if name not in CONDITIONS]:
        raise NeuroglotError(f"--conditions takes {', '.join(CONDITIONS)}, not {wrong[0]!r}.")
    recording = current.recording
    ways = split(prompting) or ["none"]
    for given, known, option in (
        (ways, PROMPTINGS, "prompting"),
        ([identifier], IDENTIFICATIONS, "identifier"),
        ([relevance] if relevance else [], ("rule", "judge"), "relevance"),
    ):
        if unknown := [name for name in given if name not in known]:
            raise NeuroglotError(f"--{option} takes {', '.join(known)}, not {unknown[0]!r}.")
    settings = SteeringSettings(
        prompts=prompts,
        text_column=text_column,
        language_column=language_column,
        sources=split(sources),
        targets=split(targets),
        method=method,
        how=steering_settings(layers, recording.layers, method=steer, site=site, strength=strength, when=when),
        search=search,
        budget=budget,
        max_loss=max_loss,
        ask=ask,
        prompting=tuple(dict.fromkeys(ways)),
        identification=identifier,
        relevance=relevance,
        reader=reader,
        conditions=chosen,
        off=off,
        limit=limit,
        seeds=seeds,
        generation=checked(
            Generation,
            tokens=tokens,
            temperature=temperature,
            repetition_penalty=repetition_penalty,
            batch=batch,
            chat=chat,
        ),
        judge=None
        if judge is None
        else checked(
            JudgeSettings, model=judge, base_url=judge_url, reading=judge_reading, per_minute=judge_per_minute
        ),
    )
    result = steer_run(current, recording, settings)
    print_steered(result)
    if save is not None:
        from neuroglot.run.steering import save_recipes

        files = save_recipes(result, current, recording, method, save)
        out.print(f"wrote {', '.join(map(str, files))}: neuroglot steer MODEL PROMPT --recipe FILE")
    if clas is not None:
        from neuroglot.evaluate.steering.clas import write_clas

        files = write_clas(result.answers, clas, {"model": current.manifest.model.source}, result.how)
        out.print(f"wrote {len(files)} files in {clas}")
    out.print(f"next: neuroglot report {run}")


def print_steered(result: "Steered") -> None:
    """Print the rates of every condition, source by target, and where the tables are."""
    from neuroglot.evaluate.steering.tables import matrix

    if result.tried is not None:
        assert result.chosen is not None
        out.print(f"chosen: {result.chosen.words()}")
    if result.off is not None:
        rate, form = ("score", "{:.2f}") if "score" in result.off else ("on_target", "{:.0%}")
        means = result.off.astype({rate: float}).pivot_table(rate, "off", "target", sort=False)
        cells = {str(tag): [form.format(value) for value in means[tag]] for tag in means.columns}
        print_table(cells, "off \\ asked in", list(map(str, means.index)))
    for condition in result.answers["condition"].unique():
        table = matrix(result.answers, condition)
        cells = {str(tag): [f"{value:.0%}" for value in table[tag]] for tag in table.columns}
        print_table(cells, f"{condition}: asked in", list(table.index))
    if result.scores is not None:
        columns = {
            name: [
                share(row[column], row[f"{column}_low"], row[f"{column}_high"]) for _, row in result.scores.iterrows()
            ]
            for name, column in (("LFS", "lfs"), ("relevance", "relevance"), ("steering score", "steering_score"))
        }
        print_table(columns, "condition", list(map(str, result.scores.index)))
    out.print(f"wrote {', '.join(map(str, result.written))}")
