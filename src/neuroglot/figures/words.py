"""What figures and pages say in words: names of methods, changes, findings."""

import statistics

import numpy as np
import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.evaluate.ablation.perturbation import Perturbation
from neuroglot.languages.tags import language_name

__all__ = [
    "change_text",
    "diagonal_words",
    "findings",
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
            f"The matrix is diagonal-dominant for {len(dominant)} of {len(others)} languages{beside}: with its neurons "
            "ablated, the language's perplexity rises more than that of any other."
        )
    for tag in diagonal_dominant.index:
        cells: dict[str, float] = change.loc[tag].to_dict()
        if not diagonal_dominant[tag]:
            most = max(cells, key=lambda measured: cells[measured])
            if result.sizes[tag] == 0:
                said.append(f"{language_name(tag)} is an exception: it has no neurons, so nothing was ablated.")
            else:
                said.append(
                    f"{language_name(tag)} is an exception: {language_name(most)} rises more "
                    f"({change_text(cells[most])}) than {language_name(tag)} itself ({change_text(cells[tag])})."
                )
    below = []
    matched = result.matched_change
    for tag in diagonal_dominant.index:
        rival = matched if tag in matched else random
        mean, std = rival.loc["mean", tag], rival.loc["std", tag]
        if not change.loc[tag, tag] > mean + 3 * (std if std == std else 0):
            below.append(language_name(tag))
    means: list[float] = random.T["mean"].tolist()
    said.append(
        f"Random neurons, {result.sizes['random']} of them, change perplexity by "
        f"{change_text(statistics.median(means))} in the median language (largest "
        f"{change_text(max(means))})."
    )
    what = "the size-matched random baseline" if len(matched) and not matched.empty else "the random baseline"
    seeds = f"3 standard deviations over {len(result.random)} seeds"
    if below:
        said.append(f"Not above {what} by {seeds}: {', '.join(below)}.")
    else:
        said.append(f"On target, every language is above {what} by {seeds}.")
    return said


def change_text(change: float) -> str:
    """A relative change in at most five characters or so: +0.3%, +45%, ×27, ×3e5."""
    if not np.isfinite(change):
        return "∞"
    if change >= 9_999:
        return f"×{change + 1:.0e}".replace("e+0", "e").replace("e+", "e")
    if change > 9.995:
        return f"×{change + 1:,.0f}"
    return f"{change:+.0%}" if abs(change) >= 0.0995 else f"{change:+.1%}".replace("-0.0%", "0%").replace("+0.0%", "0%")


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
