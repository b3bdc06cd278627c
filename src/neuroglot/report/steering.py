"""The part of a report about steering: who answered in what, at what cost, and what it reads like."""

from collections.abc import Callable
from typing import Any

import langcodes
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from neuroglot.evaluate import matrix, repair, summary
from neuroglot.languages import language_name
from neuroglot.report.figures import CELL, COLOURS, STYLE
from neuroglot.run import Run

__all__ = ["forcing_figure", "steering_findings", "steering_part"]

EXAMPLES = 24  # answers shown, at most three of a pair of languages
"""Pairs of languages of which answers are shown, and prompts of each."""


def steering_part(
    run: Run, figure: Callable[[Run, Figure, str], str], save_table: Callable[[Run, str, pd.DataFrame], None]
) -> list[dict[str, Any]]:
    """Draw the matrices of everything that was steered in a run, and gather what the page shows: an entry a set."""
    parts = []
    for name, settings in run.manifest.steering.items():
        path = run.path / "tables" / f"answers-{name}.csv"
        if not path.is_file():
            continue
        answers = pd.read_csv(path, keep_default_na=False, dtype={"language": str})
        title = f"Share of answers in the target language, {run.manifest.model.source}: {name}"
        rates = summary(answers[answers["source"] != answers["target"]], ["arm"])
        repaired = None
        asked = settings["asked"]
        wanting = answers if asked else answers[answers["source"] == answers["target"]]
        if {"intact", "raised"} <= set(wanting["arm"]):
            repaired = repair(answers, asked=asked)
            save_table(run, f"steering-repair-{name}", repaired.reset_index())
        search = run.path / "tables" / f"steering-search-{name}.csv"
        scored = "score" in answers
        parts.append(
            {
                "name": name,
                "settings": settings,
                "figure": figure(run, forcing_figure(answers, title), f"steering-{name}"),
                "scores": None
                if not scored
                else figure(
                    run, forcing_figure(answers, f"Content score, 1 to 10: {name}", "score"), f"steering-score-{name}"
                ),
                "rates": rates,
                "findings": steering_findings(answers),
                "repair": repaired,
                "search": pd.read_csv(search) if search.is_file() else None,
                "examples": _examples(answers),
            }
        )
    return parts


def steering_findings(answers: pd.DataFrame) -> list[str]:
    """What the answers show, in sentences; languages that fail are named, with the reason that the counts give."""
    crossed = answers[answers["source"] != answers["target"]]
    if crossed.empty:
        return []
    rates = summary(crossed, ["arm", "target"])
    arms = list(crossed["arm"].unique())
    said = []
    overall = summary(crossed, ["arm"])
    shares = ", ".join(f"{arm} {float(overall['accuracy'][arm]):.0%}" for arm in arms)
    said.append(f"Share answered in the target language, over all pairs of different languages: {shares}.")
    if "both" not in arms:
        return said
    rivals = [arm for arm in ("intact", "random") if arm in arms]
    failing = []
    for target in crossed["target"].unique():
        reached = float(rates["accuracy"][("both", target)])
        best = max((float(rates["accuracy"][(arm, target)]) for arm in rivals), default=0.0)
        if reached < 0.5 or reached < best + 0.25:
            table = crossed[(crossed["arm"] == "both") & (crossed["target"] == target)]
            instead = table.loc[~table["on_target"], "language"].replace("", "nothing that can be told")
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
    sound, repeating = float(overall["sound"]["both"]), overall["degenerate"].astype(float)
    said.append(
        f"Steered answers that are in the target language, in one script and not repeating themselves: {sound:.0%}; "
        f"repeating themselves: {repeating['both']:.0%}"
        + (f" (intact {repeating['intact']:.0%})." if "intact" in arms else ".")
    )
    return said


def forcing_figure(answers: pd.DataFrame, title: str = "", rate: str = "on_target") -> Figure:
    """A matrix for each arm, source by target, on one scale."""
    arms = list(answers["arm"].unique())
    tables = [matrix(answers, arm, rate) for arm in arms]
    rows, columns = tables[0].shape
    wide = max(1, min(len(arms), 3))
    high = -(-len(arms) // wide)
    left, top, gap_x, gap_y = 0.75, 0.75, 0.35, 0.75
    width = left + wide * columns * CELL + (wide - 1) * gap_x + 1.1
    height = top + high * rows * CELL + (high - 1) * gap_y + 0.55
    lowest, highest = (0.0, 1.0) if rate == "on_target" else (1.0, 10.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(width, 5.0), height))
        width = figure.get_figwidth()
        for place, (arm, table) in enumerate(zip(arms, tables, strict=True)):
            down, across = divmod(place, wide)
            x = left + across * (columns * CELL + gap_x)
            y = height - top - (down + 1) * rows * CELL - down * gap_y
            axes = figure.add_axes((x / width, y / height, columns * CELL / width, rows * CELL / height))
            values = table.to_numpy(dtype=float)
            mesh = axes.imshow(values, cmap=COLOURS, vmin=lowest, vmax=highest, aspect="auto")
            for i, j in np.argwhere(np.isfinite(values)):
                dark = (values[i, j] - lowest) / (highest - lowest) > 0.55
                text = f"{100 * values[i, j]:.0f}" if rate == "on_target" else f"{values[i, j]:.1f}"
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
            axes.set_xticks(range(columns), list(table.columns))
            axes.set_yticks(range(rows), list(table.index) if across == 0 else [""] * rows)
            axes.tick_params(length=0)
            axes.set_title(arm)
            if across == 0:
                axes.set_ylabel("asked in")
            for spine in axes.spines.values():
                spine.set_visible(False)
        middle = left + (wide * columns * CELL + (wide - 1) * gap_x) / 2
        figure.text(middle / width, 0.08 / height, "to be answered in", ha="center", va="bottom")
        bar = figure.add_axes((1 - 0.85 / width, 0.55 / height, 0.14 / width, (height - top - 0.55) / height))
        figure.colorbar(mesh, cax=bar, label="%" if rate == "on_target" else "score")
        if rate == "on_target":
            bar.set_yticks([0, 0.5, 1], ["0", "50", "100"])
        figure.suptitle(title, y=1 - 0.12 / height, va="top", fontsize=10)
    return figure


def _examples(answers: pd.DataFrame) -> list[dict[str, Any]]:
    """Answers of a few pairs, intact and steered, with what a browser needs to draw them: language and direction."""
    if not {"intact", "both"} <= set(answers["arm"]):
        return []
    crossed = answers[(answers["source"] != answers["target"]) & (answers["arm"] == "both")]
    pairs = list(dict.fromkeys(zip(crossed["source"], crossed["target"], strict=True)))
    # every target before a second pair of one; the paper's Table 5 first
    before = {pair: sum(target == pair[1] for _, target in pairs[:i]) for i, pair in enumerate(pairs)}
    pairs = sorted(pairs, key=lambda pair: (before[pair], pair != ("es", "zh")))[: EXAMPLES // 2]
    shown = []
    for source, target in pairs:
        cell = answers[(answers["source"] == source) & (answers["target"] == target)]
        steered = cell[cell["arm"] == "both"]
        intact = cell[cell["arm"] == "intact"].set_index("prompt")["answer"]
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


def direction(tag: str) -> str:
    """`rtl` where the language's script runs from right to left, `ltr` otherwise."""
    right_to_left = {"Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm"}
    return "rtl" if langcodes.Language.get(tag).maximize().script in right_to_left else "ltr"
