"""`neuroglot evaluate generation`: language forcing in a run, beside intact answers and random neurons."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuroglot.cli.app import checked, out, print_table, split
from neuroglot.cli.evaluate import evaluate
from neuroglot.cli.options import (
    LayersOption,
    MethodOption,
    RunArgument,
    SiteOption,
    SteerOption,
    StrengthOption,
    WhenOption,
)
from neuroglot.cli.steer import steering_settings
from neuroglot.errors import NeuroglotError


@evaluate.command()
def generation(
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
    arms: Annotated[
        str, typer.Option(help="What to measure, of intact, source off, raised, both, random.")
    ] = "intact,source off,raised,both,random",
    table1: Annotated[
        bool, typer.Option("--off", help="Also each language's prompts with each language's neurons off.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many prompts a language.")] = 12,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens an answer.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="As the LAPE paper has it.")] = 1.1,
    batch: Annotated[int, typer.Option(min=1, help="Prompts a forward pass.")] = 16,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many random draws of neurons.")] = 1,
    judge: Annotated[str | None, typer.Option(help="Score answers 1 to 10 by this model.", show_default=False)] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(help="Its endpoint. [default: OPENAI_BASE_URL; the key is OPENAI_API_KEY]", show_default=False),
    ] = None,
) -> None:
    """Ask in one language, steer to another, and measure whether the model obeys and still makes sense.

    Can be stopped and started again: finished answers and scores are kept.
    """
    from neuroglot.corpus.load import load_corpus
    from neuroglot.run.directory import Run

    opened = Run.open(run)
    opened.check_neurons(method)
    corpus = load_corpus(prompts)
    from neuroglot.corpus.prompts import asking
    from neuroglot.evaluate.steering.answers import summary
    from neuroglot.evaluate.steering.forcing import ARMS, deactivated
    from neuroglot.evaluate.steering.forcing import force as measure
    from neuroglot.evaluate.steering.judge import Judge, JudgeSettings
    from neuroglot.evaluate.steering.search import grid
    from neuroglot.evaluate.steering.search import search as find
    from neuroglot.evaluate.steering.tables import matrix, repair
    from neuroglot.generation.engine import Generation
    from neuroglot.storage.atomic import save_text

    neurons, recording = opened.neurons(method), opened.recording
    wanted = split(targets) or list(neurons.languages)
    neurons.check_languages(wanted)
    chosen_arms: list[Any] = split(arms) or list(ARMS)
    if wrong := [arm for arm in chosen_arms if arm not in ARMS]:
        raise NeuroglotError(f"--arms takes {', '.join(ARMS)}, not {wrong[0]!r}.")
    asked = split(sources) or [tag for tag in neurons.languages if tag in corpus.languages]
    if search:
        asked = list(dict.fromkeys([*asked, *wanted]))
    how = steering_settings(layers, recording.layers, method=steer, site=site, strength=strength, when=when)
    writing = checked(
        Generation,
        tokens=tokens,
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        batch=batch,
        chat=chat,
    )
    judging = None
    if judge is not None:
        judging = Judge(checked(JudgeSettings, model=judge, base_url=judge_url), opened.steering_path / "judge")
    model = opened.manifest.model.load()
    opened.check(model)
    name = Path(prompts).stem
    kept: dict[str, Any] = {"generation": writing, "directory": opened.steering_path / "cells"}

    def texts(target: str | None) -> dict[str, list[str]]:
        said = asking(corpus.select(asked), target) if ask and target else corpus.select(asked)
        return {tag: [text for text, _ in zip(said[tag], range(limit), strict=False)] for tag in asked}

    wrote = []
    if search:
        how, tried = find(
            model, recording, neurons, texts(None), grid(recording.layers), targets=wanted, max_loss=max_loss, **kept
        )
        path = opened.path / "tables" / f"steering-search-{name}.csv"
        wrote.append(save_text(path, tried.to_csv(index=False, lineterminator="\n")))
        out.print(f"chosen: {how.words()}")
    import pandas as pd

    groups = [(tag, [tag]) for tag in wanted] if ask else [(None, wanted)]
    answers = pd.concat(
        [
            measure(
                model, recording, neurons, texts(request), targets=some, how=how, arms=chosen_arms, seeds=seeds, **kept
            )
            for request, some in groups
        ],
        ignore_index=True,
    )
    path = opened.path / "tables" / f"answers-{name}.csv"
    wrote.append(save_text(path, answers.to_csv(index=False, lineterminator="\n")))
    if judging is not None:
        answers = judging.rate(answers)
        save_text(path, answers.to_csv(index=False, lineterminator="\n"))
    if table1:
        spoken = {tag: texts_of for tag, texts_of in texts(None).items() if tag in neurons.languages}
        off = deactivated(model, neurons, spoken, **kept)
        off = off if judging is None else judging.rate(off)
        path_off = opened.path / "tables" / f"answers-off-{name}.csv"
        wrote.append(save_text(path_off, off.to_csv(index=False, lineterminator="\n")))
        rate = "on_target" if judging is None else "score"
        means = off.astype({rate: float}).pivot_table(rate, "off", "target", sort=False)
        cells = {str(tag): [f"{value:.0%}" if judging is None else f"{value:.2f}" for value in means[tag]]
                 for tag in means.columns}  # fmt: skip
        print_table(cells, "off \\ asked in", list(map(str, means.index)))
    rates = summary(answers, ["arm", "source", "target"])
    if judging is not None:
        rates["score"] = answers.groupby(["arm", "source", "target"], sort=False)["score"].mean()
    path = opened.path / "tables" / f"steering-{name}.csv"
    wrote.append(save_text(path, rates.reset_index().to_csv(index=False, lineterminator="\n")))
    opened.manifest.steering[name] = {
        "prompts": prompts, "limit": limit, "neurons": method, "asked": ask, "seeds": seeds,
        "steering": how.model_dump(), "words": how.words(), "generation": writing.model_dump(),
        "judge": None if judging is None else judging.settings.model_dump(),
    }  # fmt: skip
    opened.save()
    for arm in chosen_arms:
        table = matrix(answers, arm)
        print_table(
            {str(tag): [f"{value:.0%}" for value in table[tag]] for tag in table.columns},
            f"{arm}: asked in",
            list(table.index),
        )
    if {"intact", "raised"} <= set(chosen_arms) and (ask or (answers["source"] == answers["target"]).any()):
        table = repair(answers, asked=ask)
        path = opened.path / "tables" / f"steering-repair-{name}.csv"
        wrote.append(save_text(path, table.reset_index().to_csv(index=False, lineterminator="\n")))
    out.print(f"wrote {', '.join(map(str, wrote))}")
    out.print(f"next: neuroglot report {run}")
