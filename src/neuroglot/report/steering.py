"""The part of a report about steering: who answered in what, at what cost, and what it reads like."""

from typing import Any

import pandas as pd

from neuroglot.edit.steering_methods import METHODS
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.tables import repair
from neuroglot.figures.steering import forcing_figure, score_figure
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.tags import direction, language_name
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.run.directory import Run
from neuroglot.run.steering import read_answers, scores_of
from neuroglot.storage.tables import load_table

__all__ = ["steering_findings", "steering_part"]

CONDITIONS = {
    "intact": "nothing is changed",
    "source off": "what the language asked in has to itself is ablated",
    "raised": "the target is raised",
    "both": "the source is off and the target raised",
    "random": "both, with the size-matched random baseline",
}
EXAMPLES = 24  # answers shown, at most three of a pair of languages


def steering_part(run: Run) -> list[dict[str, Any]]:
    """Draw the matrices of everything that was steered in a run, and gather what the page shows: an entry a set."""
    parts = []
    for name, settings in run.manifest.steering.items():
        path = run.path / "tables" / f"answers-{name}.csv"
        if not path.is_file():
            continue
        answers = read_answers(path)
        title = f"Share of answers in the target language, {run.manifest.model.source}: {name}"
        rates = summary(answers[answers["source"] != answers["target"]], ["condition"])
        repaired = None
        asked = settings["asked"]
        wanting = answers if asked else answers[answers["source"] == answers["target"]]
        if {"intact", "raised"} <= set(wanting["condition"]):
            repaired = repair(answers, asked=asked)
            keep_table(run.path, f"steering-repair-{name}", repaired.reset_index())
        search = run.path / "tables" / f"steering-search-{name}.csv"
        scored = "score" in answers
        scores = scores_of(answers)
        if scores is not None:
            keep_table(run.path, f"steering-scores-{name}", scores.reset_index())
        parts.append(
            {
                "name": name,
                "settings": settings,
                "method": method_title(settings["neurons"]),
                "of_neurons": settings["steering"]["method"] in METHODS,
                "conditions": _conditions(answers, settings["seeds"]),
                "figure": keep_figure(run.path, forcing_figure(answers, title), f"steering-{name}"),
                "scores": None
                if not scored
                else keep_figure(
                    run.path,
                    forcing_figure(answers, f"Content score, 1 to 10: {name}", "score"),
                    f"steering-score-{name}",
                ),
                "steering_scores": scores,
                "score_figure": None
                if scores is None
                else keep_figure(run.path, score_figure(scores, f"Steering score: {name}"), f"steering-scores-{name}"),
                "rates": rates,
                "findings": steering_findings(answers),
                "repair": repaired,
                "search": load_table(search, "run the same command again") if search.is_file() else None,
                "examples": _examples(answers),
            }
        )
    return parts


def _conditions(answers: pd.DataFrame, seeds: int) -> dict[str, str]:
    """What each condition that was measured is, prompted or not."""
    measured = {str(name).partition(" + prompting")[0] for name in answers["condition"].unique()}
    words = CONDITIONS | {"random": f"{CONDITIONS['random']} ({seeds} draw{'s' if seeds > 1 else ''})"}
    return {name: said for name, said in words.items() if name in measured}


def steering_findings(answers: pd.DataFrame) -> list[str]:
    """What the answers show, in sentences; languages that fail are named, with the reason that the counts give."""
    crossed = answers[answers["source"] != answers["target"]]
    if crossed.empty:
        return []
    rates = summary(crossed, ["condition", "target"])
    conditions = list(crossed["condition"].unique())
    said = []
    overall = summary(crossed, ["condition"])
    shares = ", ".join(f"{name} {float(overall['on_target'][name]):.0%}" for name in conditions)
    said.append(f"Share answered in the target language, over all pairs of different languages: {shares}.")
    if "both" not in conditions:
        return said
    rivals = [name for name in ("intact", "random") if name in conditions]
    failing = []
    for target in crossed["target"].unique():
        reached = float(rates["on_target"][("both", target)])
        best = max((float(rates["on_target"][(name, target)]) for name in rivals), default=0.0)
        if reached < 0.5 or reached < best + 0.25:
            table = crossed[(crossed["condition"] == "both") & (crossed["target"] == target)]
            instead = table.loc[~table["on_target"], "language"].replace("", "an undetermined language")
            where = ", ".join(f"{language} {count}" for language, count in instead.value_counts().head(3).items())
            failing.append(
                f"{language_name(target)} fails or hardly gains: {reached:.0%} against {best:.0%} of the better "
                f"control; off-target answers are in {where}."
                if where
                else f"{language_name(target)} hardly gains: {reached:.0%} against {best:.0%}."
            )
    if failing:
        said += failing
    else:
        beside = " and ".join(rivals)
        said.append(f"Every target is well above {beside}: at least half of the answers, and 25 points more.")
    if pd.isna(overall["well_formed"]["both"]):
        said.append(
            "How many answers are well-formed is not known: an earlier version described them, which did not look for "
            "words of another language or refusals. Steer again."
        )
        return said
    said.append(
        "Steered answers that are well-formed (on target, in one script, without words of another language, no "
        f"refusal, not repeating themselves): {float(overall['well_formed']['both']):.0%}."
    )
    names = {
        "mixed_words": "with words of another language",
        "refusal": "refusals",
        "degenerate": "repeating themselves",
    }
    faults = []
    for fault, words in names.items():
        rate = overall[fault].astype(float)
        intact = f" (intact {rate['intact']:.0%})" if "intact" in conditions else ""
        faults.append(f"{words} {rate['both']:.0%}{intact}")
    said.append(f"Of the steered answers: {', '.join(faults)}.")
    return said


def _examples(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """Answers of a few pairs, intact and steered, with what a browser needs to draw them: language and direction."""
    if not {"intact", "both"} <= set(answers["condition"]):
        return []
    crossed = answers[(answers["source"] != answers["target"]) & (answers["condition"] == "both")]
    pairs = list(dict.fromkeys(zip(crossed["source"], crossed["target"], strict=True)))
    # every target before a second pair of one; the paper's Table 5 first
    before = {pair: sum(target == pair[1] for _, target in pairs[:i]) for i, pair in enumerate(pairs)}
    pairs = sorted(pairs, key=lambda pair: (before[pair], pair != ("es", "zh")))[: EXAMPLES // 2]
    shown = []
    for source, target in pairs:
        cell = answers[(answers["source"] == source) & (answers["target"] == target)]
        steered = cell[cell["condition"] == "both"]
        intact = cell[cell["condition"] == "intact"].set_index("prompt")["answer"]
        for row in steered.head(min(3, EXAMPLES // len(pairs))).itertuples():
            shown.append(
                {
                    "source": source,
                    "target": target,
                    "prompt": row.prompt,
                    "intact": intact.get(row.prompt, ""),
                    "steered": row.answer,
                    "language": row.language,
                    "direction": direction(row.language or target),
                }
            )
    return shown
