"""What figures and pages say in words: names of methods, changes, findings."""

import statistics

import numpy as np
import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.languages.tags import language_name

__all__ = [
    "baseline_findings",
    "between_text",
    "change_text",
    "diagonal_words",
    "findings",
    "on_target_texts",
    "ratio_ticks",
    "share_diagonal_dominant",
    "target_words",
    "thirds",
]


def share_diagonal_dominant(result: Perturbation) -> float:
    """The share of languages, English left out, whose row is diagonal-dominant: harmed most on target."""
    diagonal_dominant = result.diagonal_dominant.drop("en", errors="ignore")
    own = [bool(diagonal_dominant[tag]) and result.sizes[str(tag)] > 0 for tag in diagonal_dominant.index]
    return sum(own) / len(own) if own else 0.0


def diagonal_words(result: Perturbation) -> str:
    """The same in words."""
    diagonal_dominant = result.diagonal_dominant.drop("en", errors="ignore")
    number = round(share_diagonal_dominant(result) * len(diagonal_dominant))
    beside = " other than English" if "en" in result.diagonal_dominant else ""
    return f"diagonal-dominant for {number} of {len(diagonal_dominant)} languages{beside}"


def target_words(result: Perturbation) -> str:
    """How much perplexity rises on target and off target with a language's neurons ablated, by median."""
    change = result.change
    on_target = pd.Series({tag: change.loc[tag, tag] for tag in result.diagonal_dominant.index})
    off_target = pd.Series(
        [change.loc[row, tag] for row in change.index for tag in change.columns if row != tag and row in change]
    )
    return f"median change on target {change_text(on_target.median())}, off target {change_text(off_target.median())}"


def thirds(neurons: NeuronSet) -> tuple[float, float, float]:
    """The share of the neurons, added up over languages, in the first, middle and last third of the layers."""
    counts = neurons.mask.sum((0, 2)).double()
    third, total = len(counts) // 3, max(float(counts.sum()), 1.0)
    first, last = float(counts[:third].sum()) / total, float(counts[len(counts) - third :].sum()) / total
    return first, 1 - first - last, last


def findings(result: Perturbation) -> list[str]:
    """What a perplexity-change matrix shows, in sentences; exceptions are named."""
    change, random, diagonal_dominant = result.change, result.random_change, result.diagonal_dominant
    others = [tag for tag in diagonal_dominant.index if tag != "en"]
    dominant = [tag for tag in others if diagonal_dominant[tag]]
    said = []
    if others:
        beside = " other than English" if "en" in diagonal_dominant.index else ""
        said.append(
            f"The matrix is diagonal-dominant for {len(dominant)} of {len(others)} languages{beside}: with its "
            f"{result.units} ablated, the language's perplexity rises more than that of any other."
        )
    for tag in diagonal_dominant.index:
        cells: dict[str, float] = change.loc[tag].to_dict()
        if not diagonal_dominant[tag]:
            most = max(cells, key=lambda measured: cells[measured])
            if result.sizes[tag] == 0:
                said.append(f"{language_name(tag)} is an exception: it has no {result.units}, so nothing was ablated.")
            else:
                said.append(
                    f"{language_name(tag)} is an exception: {language_name(most)} rises more "
                    f"({change_text(cells[most])}) than {language_name(tag)} itself ({change_text(cells[tag])})."
                )
    means: list[float] = random.T["mean"].tolist() if len(result.random) else []
    if means:
        said.append(
            f"Random {result.units}, {result.sizes['random']} of them, change perplexity by "
            f"{change_text(statistics.median(means))} in the median language (largest "
            f"{change_text(max(means))})."
        )
    return [*said, *baseline_findings(result)]


def baseline_findings(result: Perturbation) -> list[str]:
    """What can be said of the effects on target beside the random baseline: over seeds, and over blocks.

    One seed has no deviation and one block no interval; then that is what is said.
    """
    own, seeds = result.on_target, len(result.matched or result.random)
    if own.empty:
        return []
    what = "the size-matched random baseline" if result.matched else "the random baseline"
    said = []
    if seeds < 2:
        which = "has one seed" if seeds else "was not measured"
        said.append(f"{what[0].upper()}{what[1:]} {which}, so its spread is not known: measure three, --seeds 3.")
    else:
        over = f"3 standard deviations over {seeds} seeds"
        below = own.index[~(own["change"] > own["random"] + 3 * own["random_std"])]
        said.append(
            f"Not above {what} by {over}: {_listed(below)}."
            if len(below)
            else f"On target, every language is above {what} by {over}."
        )
    if not result.losses:
        said.append("No interval is known: an earlier version measured this. Measure again for intervals over blocks.")
    elif own["above_low"].isna().all():
        if seeds:
            said.append("No interval is known: each language has one block of held-out text. Give more --tokens.")
    else:
        above = own["above_low"] > 0
        said.append(
            f"Over blocks of text, the 95 % interval of what is lost on target beyond {what} is above zero for "
            f"{int(above.sum())} of {len(own)} languages"
            + (f"; not for {_listed(own.index[~above])}." if not above.all() else ".")
        )
    return said


def on_target_texts(result: Perturbation) -> list[list[str]]:
    """`Perturbation.on_target` as text: language, neurons, change, interval, baseline, deviation, ΔNLL, interval."""
    rows = []
    for tag, row in result.on_target.iterrows():
        nats = f"{row['above_low']:+.3f} to {row['above_high']:+.3f}"
        spread = row["random_std"]
        rows.append(
            [
                language_name(str(tag)),
                f"{int(row['neurons']):,}",
                change_text(row["change"]),
                between_text(row["low"], row["high"]),
                change_text(row["random"]),
                "–" if np.isnan(spread) else change_text(spread).removeprefix("+"),
                "–" if np.isnan(row["above"]) else f"{row['above']:+.3f}",
                "–" if np.isnan(row["above_low"]) else nats,
            ]
        )
    return rows


def _listed(tags: pd.Index) -> str:
    return ", ".join(language_name(str(tag)) for tag in tags)


def change_text(change: float) -> str:
    """A relative change in at most five characters or so: +0.3%, +45%, ×27, ×3e5; a dash for what is not known."""
    if np.isnan(change):
        return "–"
    if not np.isfinite(change):
        return "∞"
    if change >= 9_999:
        return f"×{change + 1:.0e}".replace("e+0", "e").replace("e+", "e")
    if change > 9.995:
        return f"×{change + 1:,.0f}"
    return f"{change:+.0%}" if abs(change) >= 0.0995 else f"{change:+.1%}".replace("-0.0%", "0%").replace("+0.0%", "0%")


def between_text(low: float, high: float) -> str:
    """An interval of relative changes, such as `+12% to +45%`; a dash where it is not known."""
    return "–" if np.isnan(low) or np.isnan(high) else f"{change_text(low)} to {change_text(high)}"


def ratio_ticks(top: float) -> dict[float, str]:
    """Places on a logarithmic colour bar from 1 to `top`, far enough apart to be read, and what stands there."""
    decades = float(np.log10(top))
    if decades <= 2:
        ticks = [1, 1.5, 2, 3, 5, 10, 30, 100]
    elif decades <= 4:
        ticks = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4]
    else:
        ticks = [10.0**power for power in range(0, int(decades) + 1, 1 + int(decades) // 8)]
    return {tick: change_text(tick - 1)[1:] if tick > 10 else f"{tick:g}" for tick in ticks if tick <= top}
