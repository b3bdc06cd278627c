"""`neuroglot evaluate score`: the steering score of answers that any program wrote."""

from pathlib import Path
from typing import Annotated

import typer

from neuroglot.cli.app import checked, out, print_table, share
from neuroglot.cli.evaluate import evaluate
from neuroglot.cli.options import JudgePerMinuteOption, JudgeReadingOption, JudgeUrlOption, writable_file
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError


@evaluate.command()
def score(
    context: typer.Context,
    answers: Annotated[
        Path,
        typer.Argument(
            help="Answers as CLaS-Bench has them: a folder with SOURCE_to_TARGET.json files, one of them, or one JSON "
            "line an answer (.jsonl)."
        ),
    ],
    identifier: Annotated[str, typer.Option(help="Who tells the language: fasttext or lingua.")] = "fasttext",
    judge: Annotated[
        str | None,
        typer.Option(
            help="Rate relevance 0 to 2 by this model. [default: the scores in the files]", show_default=False
        ),
    ] = None,
    judge_url: JudgeUrlOption = None,
    judge_reading: JudgeReadingOption = "reply",
    judge_per_minute: JudgePerMinuteOption = 60,
    reader: Annotated[
        str | None,
        typer.Option(help="Rate relevance by the likelihood rule, read by this model.", show_default=False),
    ] = None,
    by: Annotated[str, typer.Option(help="Rows: condition, target or source.")] = "condition",
    table: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=writable_file, help="Write the scores to this .csv too.", show_default=False
        ),
    ] = None,
) -> None:
    """LFS, relevance and steering score (their harmonic mean) of answers, with 95 % intervals.

    A judge's scores are kept in the cache (`NEUROGLOT_CACHE`), so the same command goes on where a judge failed.
    """
    if not answers.exists():
        raise NeuroglotError(f"There is nothing at {answers}; give answers.")
    if judge is not None and reader is not None:
        raise NeuroglotError("Relevance is rated by a --judge or by a --reader; leave one out.")
    if judge is None:
        refuse_unused(context, "without --judge", "judge_url", "judge_reading", "judge_per_minute")
    if by not in ("condition", "target", "source"):
        raise NeuroglotError(f"--by takes condition, target or source, not {by!r}.")
    if identifier not in ("fasttext", "lingua"):
        raise NeuroglotError(f"--identifier takes fasttext or lingua, not {identifier!r}.")
    from neuroglot.evaluate.steering.clas import identified, read_clas
    from neuroglot.evaluate.steering.scores import steering_scores

    found = identified(read_clas(answers), identifier)  # type: ignore[arg-type]
    if judge is not None:
        from neuroglot.evaluate.steering.judge import Judge, JudgeSettings
        from neuroglot.storage.caches import cache_directory

        asked = {"reading": judge_reading, "per_minute": judge_per_minute, "rubric": "relevance"}
        how = checked(JudgeSettings, model=judge, base_url=judge_url, **asked)
        found = Judge(how, cache_directory() / "judge").rate(found)
    elif reader is not None:
        from neuroglot.evaluate.steering.relevance import LikelihoodRule, distinct_questions
        from neuroglot.models.loading import load_model

        questions = distinct_questions(
            {str(tag): list(rows["prompt"]) for tag, rows in found.groupby("source", sort=False)}
        )
        found = LikelihoodRule(load_model(reader), questions).rate(found)
    if "relevance" not in found:
        raise NeuroglotError(
            "Not every answer has a score of its relevance; name a --judge, or a --reader for the likelihood rule."
        )
    scores = steering_scores(found, [by])
    if table is not None:
        from neuroglot.storage.tables import save_table

        save_table(table, scores.reset_index())
    shown = {"answers": [f"{count:.0f}" for count in scores["answers"]]}
    for name, column in (("LFS", "lfs"), ("relevance", "relevance"), ("steering score", "steering_score")):
        ends = zip(scores[column], scores[f"{column}_low"], scores[f"{column}_high"], strict=True)
        shown[name] = [share(*each) for each in ends]
    print_table(shown, by, list(map(str, scores.index)))
    if table is not None:
        out.print(f"wrote {table}")
