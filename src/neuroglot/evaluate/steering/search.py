"""The best of many steering settings, at a bounded loss of fluency."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.steering import Method
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.forcing import Forced, Prompts, Steering, force
from neuroglot.generation.settings import Generation
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
        other half, and `intact` and `native`: intact answers asked in the source and in the target language, on that
        half.
        `within` says whether the bounds hold. If they hold nowhere, the setting with the fewest degenerate answers is
        chosen, and its `within` is False.

    Raises:
        NeuroglotError: no setting, too few prompts, or what `force` raises.
    """
    wanted = [language_tag(tag) for tag in targets or neurons.languages]
    halves = _halves(prompts, wanted)
    if not settings:
        raise NeuroglotError("There is no setting to try; see evaluate.grid.")
    how = {"generation": generation, "directory": directory, "progress": progress}
    develop, report = (_Half(model, recording, neurons, half, wanted, how) for half in halves)
    bounds = [_Bounds(half.rates("intact", native=True), max_loss, max_degenerate) for half in (develop, report)]
    tried = [develop.rates("both", setting) for setting in settings]
    best = max(range(len(settings)), key=lambda i: bounds[0].order(tried[i]))
    chosen = settings[best]
    rows = [
        {"half": "development", "setting": setting.words(), **rates, "within": bounds[0].hold(rates)}
        for setting, rates in zip(settings, tried, strict=True)
    ]
    rates = report.rates("both", chosen)
    rows.append({"half": "reported", "setting": chosen.words(), **rates, "within": bounds[1].hold(rates)})
    rows.append({"half": "reported", "setting": "intact", **report.rates("intact"), "within": True})
    rows.append({"half": "reported", "setting": "native", **bounds[1].native, "within": True})
    table = pd.DataFrame(rows)
    table["perplexity"] = table["perplexity"].map(lambda value: value if math.isfinite(value) else math.inf)
    return chosen, table


def _halves(prompts: Prompts, targets: Sequence[str]) -> list[dict[str, list[str]]]:
    """The prompts that develop (the first, third …) and those that report."""
    halves = [{language_tag(tag): list(texts)[part::2] for tag, texts in prompts.items()} for part in (0, 1)]
    if missing := [tag for tag in targets if tag not in halves[0]]:
        raise NeuroglotError(f"The measure of fluency needs prompts in {missing[0]} too; give some.")
    if len(halves[0]) < 2:
        raise NeuroglotError("Forcing is between languages: give prompts in at least two.")
    if not all(half[tag] for half in halves for tag in half):
        raise NeuroglotError("Half of the prompts develop and half report: give at least two in each language.")
    return halves


@dataclass(frozen=True)
class _Half:
    """Half of the prompts, and whom they are put to."""

    model: Model
    recording: Recording
    neurons: NeuronSet
    prompts: Prompts
    targets: Sequence[str]
    how: dict[str, Any]

    def rates(self, condition: Forced, setting: Steering | None = None, *, native: bool = False) -> pd.Series:
        """The rates over all pairs of different languages, or (`native`) over each target asked in itself."""
        tables = []
        for target in self.targets:
            asked = {tag: texts for tag, texts in self.prompts.items() if (tag == target) is native}
            if asked:
                tables.append(
                    force(
                        self.model, self.recording, self.neurons, asked, targets=[target], how=setting,
                        conditions=[condition], **self.how,
                    )
                )  # fmt: skip
        return summary(pd.concat(tables), ["condition"]).iloc[0]


@dataclass(frozen=True)
class _Bounds:
    """How fluent answers must be, beside those of the intact model asked in the target language itself."""

    native: pd.Series
    max_loss: float
    max_degenerate: float

    def hold(self, rates: pd.Series) -> bool:
        """Whether answers of these rates are fluent enough."""
        return bool(
            rates["perplexity"] <= (1 + self.max_loss) * self.native["perplexity"]
            and rates["degenerate"] <= self.native["degenerate"] + self.max_degenerate
        )

    def order(self, rates: pd.Series) -> tuple[bool, float]:
        """What is best is largest: the most accurate where the bounds hold, else the least degenerate."""
        held = self.hold(rates)
        return held, float(rates["on_target"] if held else -rates["degenerate"])
