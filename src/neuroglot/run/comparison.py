"""The comparison of methods in a run: each method's sets of equal size, and what switching them off does."""

import time
import warnings
from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.ablation.comparison import ALL, Ablation, Comparison, measure_conditions
from neuroglot.evaluate.ablation.units import unit_costs
from neuroglot.evaluate.likelihood.perplexity import check_held_out
from neuroglot.identify.ranking import choose, rank
from neuroglot.identify.registry import Method, find, names
from neuroglot.identify.selection import check_budget, select_top
from neuroglot.identify.units import Units, of_units
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.run.directory import Run
from neuroglot.run.evidence import HALVES, EvidenceByPart, lacking
from neuroglot.run.identification import finds_heads
from neuroglot.tokens.packing import check_fills

__all__ = ["CompareSettings", "check_lengths", "check_methods", "compare_run"]


Share = Annotated[float, Field(gt=0, le=1)]


class CompareSettings(BaseModel):
    """What is compared, on what, and how finely."""

    methods: list[str] = Field(default_factory=names, min_length=1)
    """The methods; what some need beside the recorded text must be there."""
    units: list[Units] = Field(default=["neurons"], min_length=1)
    """What is compared: neurons, and heads, of which methods that need nothing else choose as many as hold the same
    number of parameters."""
    budget: float = Field(0.01, gt=0, le=1)
    """Neurons a language, as a share of all, the same for every method."""
    curve: list[Share] = []
    """Further budgets, for the budget curves."""
    texts: list[PositiveInt] = []
    """Tokens a language from which neurons are found as well, to see how much text is enough."""
    close: list[str] | None = None
    """The methods whose halves, curves and texts are measured too; by default all. How alike a method's sets are does
    not cost a measurement, and is shown for all."""
    defaults: bool = True
    """Measure what each method chooses by itself as well."""
    seeds: int = Field(3, ge=1)
    """Rows of random neurons."""
    tokens: int = Field(100_000, ge=1)
    """At most so many held-out tokens of each language are measured."""
    block: int | None = Field(None, ge=2)
    """Tokens a block of held-out text; by default as `perplexity` has it. Intervals draw blocks: let there be many."""
    samples: int = Field(100, ge=2)
    """At most so many samples of a parallel corpus, for key regions."""
    tuned: dict[str, str] = {}
    """Language → the model tuned on it, for parameter variation."""


def compare_run(
    run: Run, model: Model, settings: CompareSettings, *, corpus: Corpus | None = None, progress: bool = True
) -> Comparison:
    """Find every method's neurons in the run's text with equal budgets, and measure them all on held-out text.

    What is finished is kept in the run's `comparison/` and not done again. What earlier calls measured with the same
    model on the same blocks stays in the result beside what this one measures.

    Args:
        run: whose model and text.
        model: the run's.
        settings: what to compare.
        corpus: measure on this text instead of what the run held out.
        progress: show bars.

    Raises:
        NeuroglotError: a method is unknown or lacks what it needs, a budget is too small for one neuron, or the text is
            too short.
    """
    text, held_out = run.manifest.text.load()
    methods = check_methods(run, text, settings)
    measured = held_out if corpus is None else corpus.select(text.languages)
    check_lengths(run, model, text, measured, settings)
    evidence = EvidenceByPart(
        run, model, text, methods, samples=settings.samples, tuned=settings.tuned, progress=progress,
        heads="heads" in settings.units,
    )  # fmt: skip
    choices = _Choices(settings, evidence)
    result = measure_conditions(
        model,
        measured,
        [ablation for units in settings.units for method in methods for ablation in choices.ablations(method, units)],
        tokens=settings.tokens,
        block=settings.block,
        directory=evidence.folder / "cells",
        progress=progress,
    )
    result.seconds = choices.seconds
    with run.changing() as manifest:
        asked = settings.model_dump() | {"corpus": measured.name}
        before = _earlier(run, result)
        if before is not None:
            result.add(before)
            asked["methods"] = list(dict.fromkeys([*manifest.compare.get("methods", []), *asked["methods"]]))
        result.save(run.comparison_path)
        manifest.compare = asked
    return result


def check_methods(run: Run, text: Corpus, settings: CompareSettings) -> list[Method]:
    """The methods, if each can be given what it needs; the model need not be open.

    Raises:
        NeuroglotError: a method is unknown, or lacks what it needs, or a budget is too small for one neuron.
    """
    methods = [find(name) for name in settings.methods]
    widths = run.recording.widths
    for share in (settings.budget, *settings.curve):
        check_budget(share, widths)
    for method in methods:
        if (sentence := lacking(method, run, text, settings.tuned)) is not None:
            raise NeuroglotError(sentence)
    return methods


def check_lengths(
    run: Run, model: Model | TextReader, text: Corpus, measured: Corpus, settings: CompareSettings
) -> None:
    """Refuse text of which a language does not fill a block, before all of it is read: as much as a block is read.

    Raises:
        NeuroglotError: as said.
    """
    how = run.manifest.record
    for part in (text.half(0), text.half(1)):
        check_fills(model, part, how.block, how.tokens)
    check_held_out(model, measured, tokens=settings.tokens, block=settings.block)


def _earlier(run: Run, result: Comparison) -> Comparison | None:
    """What earlier calls measured on the same text with the same model; None if nothing."""
    try:
        before = Comparison.load(run.comparison_path)
    except NeuroglotError:  # none, or damaged: its cells are kept by themselves
        return None
    same = (before.settings, before.block, before.languages) == (result.settings, result.block, result.languages)
    return before if same else None


class _Choices:
    """Which neurons each method chooses, by every part of the evidence and for every budget: the ablations to measure.

    Attributes:
        seconds: method → what finding its neurons took, by step.
    """

    def __init__(self, settings: CompareSettings, evidence: EvidenceByPart):
        self.settings, self.evidence = settings, evidence
        self.seconds: dict[str, dict[str, float]] = {}
        self._ranked: dict[tuple[str, str], Tensor] = {}

    def ablations(self, method: Method, units: Units) -> list[Ablation]:
        """All choices of sets of a method, of neurons or of heads."""
        how, name = self.settings, method.name
        if units == "heads":
            return self._of_heads(method)
        close = how.close is None or name in how.close
        found = [self._ablation(method, ALL, how.budget)]
        if "seed" in method.needs:
            found += [self._ablation(method, f"seed {seed}", how.budget) for seed in range(1, how.seeds)]
        if name == "pv":
            found.append(self._parameters())
        if method.statistics or {"samples", "experts"} & {*method.needs}:  # it depends on the text
            parts = [*HALVES, *(f"{tokens} tokens" for tokens in sorted(how.texts))]
            found += [self._ablation(method, part, how.budget, measured=close) for part in parts]
        if how.defaults and method.choice is not None:
            found += self._own_choice(method)
        return found + [self._ablation(method, ALL, share) for share in how.curve if close and share != how.budget]

    def _of_heads(self, method: Method) -> list[Ablation]:
        """As many heads as hold what the budget's neurons do, by all of the evidence, its halves, and several seeds."""
        if not finds_heads(method):
            return []
        how, model, tags = self.settings, self.evidence.model, self.evidence.text.languages
        name = of_units(method.name, "heads")
        costs = unit_costs(model, self.evidence.run.manifest.record.block, heads=True)
        parts = [ALL, *(f"seed {seed}" for seed in range(1, how.seeds) if "seed" in method.needs)]
        parts += [*HALVES] if method.statistics else []
        close = how.close is None or method.name in how.close
        found = []
        for part in parts:
            evidence = self.evidence.of(part)
            started = time.perf_counter()
            scores = rank(method.name, replace(evidence, recording=evidence.recording.of("heads")))
            if part == ALL:
                self.seconds[name] = self.evidence.seconds(method) | {"choosing": time.perf_counter() - started}
            about = {"method": name, "budget": how.budget, "part": part, "fingerprint": model.fingerprint,
                     "units": "heads"}  # fmt: skip
            widths = [attention.heads for attention in model.attentions]
            sets = select_top(scores, tags, costs.share("heads", how.budget), about, widths)
            found.append(Ablation(name, how.budget, part, sets, part not in HALVES or close))
        return found

    def _ablation(self, method: Method, part: str, share: float, measured: bool = True) -> Ablation:
        """The neurons that a method takes first, by the evidence of a part."""
        model, text = self.evidence.model, self.evidence.text
        about = {"method": method.name, "budget": share, "part": part, "fingerprint": model.fingerprint}
        sets = select_top(self._scores(method, part), text.languages, share, about, model.widths)
        return Ablation(method.name, share, part, sets, measured)

    def _scores(self, method: Method, part: str) -> Tensor:
        if (method.name, part) not in self._ranked:
            evidence = self.evidence.of(part)
            started = time.perf_counter()
            self._ranked[method.name, part] = rank(method.name, evidence)
            if part == ALL:
                choosing = {"choosing": time.perf_counter() - started}
                self.seconds[method.name] = self.evidence.seconds(method) | choosing
        return self._ranked[method.name, part]

    def _own_choice(self, method: Method) -> list[Ablation]:
        """What a method chooses by itself; nothing, and said so, where it cannot."""
        try:
            found: NeuronSet = choose(method.name, self.evidence.of(ALL))
        except NeuroglotError as error:
            warnings.warn(f"{method.name}'s own choice is left out: {error}", NeuroglotWarning, stacklevel=2)
            return []
        found.save(self.evidence.folder / "defaults" / f"{method.name}.safetensors")
        return [Ablation(method.name, None, ALL, found)]

    def _parameters(self) -> Ablation:
        """Parameter variation by single parameter, which are zeroed and not neurons."""
        name = "pv parameters"
        self.seconds[name] = {step: value for step, value in self.seconds["pv"].items() if step == "tuning"}
        return Ablation(name, self.settings.budget, ALL, self.evidence.varied_parameters(self.settings.budget))
