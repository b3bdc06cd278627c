"""The best of many steering settings, at a bounded loss of fluency."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.steering import Method
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.forcing import Arm, Prompts, Steering, force
from neuroglot.generation.engine import Generation
from neuroglot.languages.tags import language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model

__all__ = ["grid", "search"]


def grid(
    layers: int,
    methods: Iterable[Method] = ("replace", "raise", "difference", "scale"),
    sites: Iterable[Site] = ("activation", "hidden"),
    strengths: Iterable[float] = (1.0, 2.0),
) -> list[Steering]:
    """What `search` tries by default: every method, site and strength, in all layers and in the last third.

    Scaling takes the strength plus one, since a factor of one changes nothing.
    """
    spans: list[tuple[int, ...] | None] = [None, tuple(range(layers - max(1, layers // 3), layers))]
    return [
        Steering(method=method, site=site, strength=strength + (method == "scale"), layers=span)
        for method in methods
        for site in sites
        for strength in strengths
        for span in spans
    ]


def search(
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    prompts: Prompts,
    settings: Sequence[Steering],
    *,
    targets: Sequence[str] | None = None,
    max_loss: float = 1.0,
    max_degenerate: float = 0.2,
    generation: Generation | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> tuple[Steering, pd.DataFrame]:
    """The setting with the best language accuracy at a bounded loss of fluency.

    Every setting is tried on the development half of the prompts (the first, third …), for every source → target pair
    of different languages with the source switched off; the one chosen is then measured on the other half. The measure
    of fluency is what the intact model writes when it is asked in the target language itself.

    Args:
        model: see `force`.
        recording: see `force`.
        neurons: see `force`.
        prompts: see `force`; they must include the targets.
        settings: those to try; see `grid`.
        targets: see `force`.
        max_loss: the perplexity of the answers may exceed the intact ones' by this share: 1 allows twice.
        max_degenerate: the share of degenerate answers may exceed the intact ones' by this.
        generation: see `force`.
        directory: see `force`.
        progress: see `force`.

    Returns:
        The setting chosen, and a table: a row a setting on the development half, then `reported`, the chosen one on the
        other half, and `intact` and `own`: intact answers asked in the source and in the target language, on that half.
        `within` says whether the bounds hold. If they hold nowhere, the setting with the fewest degenerate answers is
        chosen, and its `within` is False.

    Raises:
        NeuroglotError: no setting, too few prompts, or what `force` raises.
    """
    if not settings:
        raise NeuroglotError("There is no setting to try; see evaluate.grid.")
    wanted = [language_tag(tag) for tag in targets or neurons.languages]
    halves: list[dict[str, list[str]]] = [
        {language_tag(tag): list(texts)[part::2] for tag, texts in prompts.items()} for part in (0, 1)
    ]
    if missing := [tag for tag in wanted if tag not in halves[0]]:
        raise NeuroglotError(f"The measure of fluency needs prompts in {missing[0]} too; give some.")
    if len(halves[0]) < 2:
        raise NeuroglotError("Forcing is between languages: give prompts in at least two.")
    if not all(half[tag] for half in halves for tag in half):
        raise NeuroglotError("Half of the prompts develop and half report: give at least two in each language.")

    def measure(half: Prompts, arm: Arm, how: Steering | None, own: bool = False) -> pd.Series:
        tables = []
        for target in wanted:
            asked = {tag: texts for tag, texts in half.items() if (tag == target) is own}
            if asked:
                tables.append(
                    force(
                        model, recording, neurons, asked, targets=[target], how=how, arms=[arm], generation=generation,
                        directory=directory, progress=progress,
                    )
                )  # fmt: skip
        return summary(pd.concat(tables), ["arm"]).iloc[0]

    reference = [measure(half, "intact", None, own=True) for half in halves]

    def within(row: pd.Series, fluent: pd.Series) -> bool:
        return bool(
            row["perplexity"] <= (1 + max_loss) * fluent["perplexity"]
            and row["degenerate"] <= fluent["degenerate"] + max_degenerate
        )

    rows = []
    for how in settings:
        rates = measure(halves[0], "both", how)
        rows.append({"half": "development", "setting": how.words(), **rates, "within": within(rates, reference[0])})
    best = max(
        range(len(rows)),
        key=lambda i: (rows[i]["within"], rows[i]["on_target"] if rows[i]["within"] else -rows[i]["degenerate"]),
    )
    chosen = settings[best]
    rates = measure(halves[1], "both", chosen)
    rows.append({"half": "reported", "setting": chosen.words(), **rates, "within": within(rates, reference[1])})
    rows.append({"half": "reported", "setting": "intact", **measure(halves[1], "intact", None), "within": True})
    rows.append({"half": "reported", "setting": "native", **reference[1], "within": True})
    table = pd.DataFrame(rows)
    table["perplexity"] = table["perplexity"].map(lambda value: value if math.isfinite(value) else math.inf)
    return chosen, table
