"""The comparison of methods in a run: the evidence, each method's sets of equal size, and what they do."""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.ablation.comparison import ALL, Arm, Comparison, measure_arms
from neuroglot.identify.key_regions import key_regions
from neuroglot.identify.lap import lap
from neuroglot.identify.lape import lape, lave
from neuroglot.identify.margin import margin
from neuroglot.identify.parameter_variation import least_varied, variation_rates, varied_parameters
from neuroglot.identify.registry import RANKINGS, rank
from neuroglot.identify.selection import Evidence, select_top
from neuroglot.models.model import Model
from neuroglot.recording.record_samples import record_samples
from neuroglot.recording.recorder import record
from neuroglot.run.directory import Run
from neuroglot.storage.atomic import read_json, save_text
from neuroglot.storage.tensors import load_tensors, save_tensors

__all__ = ["CompareSettings", "compare_run"]

Made = TypeVar("Made")
HALVES = ("half 1", "half 2")
STATISTICS = ("active", "activation", "hidden")
SAMPLE_TOKENS = 200  # of a sample for key regions at most, as the paper has it


class CompareSettings(BaseModel):
    """What is compared, on what, and how finely."""

    methods: list[str] = Field(default_factory=lambda: list(RANKINGS))
    """The methods; pv needs models tuned on each language, regions a parallel corpus, experts `neuroglot experts`."""
    budget: float = Field(0.01, gt=0, le=1)
    """Neurons a language, as a share of all, the same for every method."""
    curve: list[float] = []
    """Further budgets, for the budget curves."""
    texts: list[int] = []
    """Tokens a language from which neurons are found as well, to see how much text is enough."""
    close: list[str] | None = None
    """The methods whose halves, curves and texts are measured too; by default all. How alike a method's sets are does
    not cost a measurement, and is told for all."""
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

    What is finished is kept in the run's `comparison/` and not done again.

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
    unknown = [name for name in settings.methods if name not in RANKINGS]
    if unknown:
        raise NeuroglotError(f"{unknown[0]} is no method of comparison; choose among {', '.join(RANKINGS)}.")
    for share in (settings.budget, *settings.curve):
        if not 0 < share <= 1 or round(share * model.layers * model.neurons) < 1:
            raise NeuroglotError(
                f"A budget of {share:g} of {model.layers * model.neurons:,} neurons is no number from one to all; "
                "choose another."
            )
    text, held_out = run.manifest.text.load()
    measured = held_out if corpus is None else corpus.select(text.languages)
    work = _Work(run, model, settings, text, progress)
    arms = [arm for method in settings.methods for arm in work.arms(method)]
    result = measure_arms(
        model,
        measured,
        arms,
        tokens=settings.tokens,
        block=settings.block,
        directory=run.path / "comparison" / "cells",
        progress=progress,
    )
    result.seconds = work.seconds
    result.save(run.comparison_path)
    run.manifest.compare = settings.model_dump() | {"corpus": measured.name}
    run.save()
    return result


@dataclass
class _Work:
    """The evidence of one comparison, made when first asked for."""

    run: Run
    model: Model
    settings: CompareSettings
    text: Corpus
    progress: bool

    def __post_init__(self) -> None:
        self.folder = self.run.path / "comparison"
        self._timed = self.folder / "seconds.json"
        kept = read_json(self._timed)
        self._steps: dict[str, float] = kept or {}
        self._times = kept is not None or not self._timed.is_file()  # else lost: what is read again has no time
        self.seconds: dict[str, dict[str, float]] = {}
        self._evidence: dict[str, Evidence] = {}
        self._ranked: dict[tuple[str, str], Tensor] = {}
        path = self.run.path / "experts" / "partition.safetensors"
        self.partition = Partition.load(path) if "experts" in self.settings.methods and path.is_file() else None
        if "experts" in self.settings.methods and self.partition is None:
            raise NeuroglotError(
                f"experts needs a partition; run `neuroglot experts {self.run.path}`, or leave it out."
            )
        if "regions" in self.settings.methods and not self.text.parallel:
            raise NeuroglotError("regions needs a parallel corpus, and this one is not; leave the method out.")
        missing = [tag for tag in self.text.languages if tag not in self.settings.tuned]
        if "pv" in self.settings.methods and missing:
            raise NeuroglotError(
                f"pv needs a model tuned on each language, and there is none for {', '.join(missing)}; make them with "
                "`neuroglot tune`, or leave the method out."
            )

    # --- which arms --------------------------------------------------------------------------------------------------

    def arms(self, method: str) -> list[Arm]:
        """All arms of a method."""
        how = self.settings
        close = how.close is None or method in how.close

        def arm(part: str, share: float = how.budget, measured: bool = True) -> Arm:
            return Arm(method, share, part, self.sets(method, part, share), measured)

        arms = [arm(ALL)]
        if method == "random":
            arms += [arm(f"seed {seed}") for seed in range(1, how.seeds)]
        elif method == "pv":
            arms.append(Arm("pv parameters", how.budget, ALL, self._parameters()))
            self.seconds["pv parameters"] = {k: v for k, v in self.seconds["pv"].items() if k == "tuning"}
        else:  # neither seeds nor tuning come from the recorded text
            parts = [*HALVES, *(f"{tokens} tokens" for tokens in sorted(how.texts))]
            arms += [arm(part, measured=close) for part in parts]
        own = self._default(method) if how.defaults and method in DEFAULTS else None
        if own is not None:
            arms.append(Arm(method, None, ALL, own))
        return arms + [arm(ALL, share) for share in how.curve if close and share != how.budget]

    def sets(self, method: str, part: str, share: float) -> NeuronSet:
        """The neurons that a method takes first, by the evidence of a part."""
        if (method, part) not in self._ranked:
            evidence = self.evidence(part)
            started = time.perf_counter()
            self._ranked[method, part] = rank(method, evidence)
            if part == ALL:
                self.seconds[method] = self._steps_of(method) | {"choosing": time.perf_counter() - started}
        about = {"method": method, "budget": share, "part": part, "fingerprint": self.model.fingerprint}
        return select_top(self._ranked[method, part], self.text.languages, share, about)

    def _default(self, method: str) -> NeuronSet | None:
        """What a method chooses by itself; None, and said so, where it cannot."""
        try:
            found = DEFAULTS[method](self.evidence(ALL))
        except NeuroglotError as error:
            warnings.warn(f"{method}'s own choice is left out: {error}", NeuroglotWarning, stacklevel=2)
            return None
        found.save(self.folder / "defaults" / f"{method}.safetensors")
        return found

    def _parameters(self) -> ParameterSet:
        path = self.folder / "parameters.safetensors"
        wanted = {"top_fraction": self.settings.budget, "tuned": self._tuned_files()}
        if path.is_file():
            found = ParameterSet.load(path)
            if {name: found.about.get(name) for name in wanted} == wanted:
                return found
        found = varied_parameters(
            self.run.manifest.model.source,
            self.tuned,
            top_fraction=self.settings.budget,
            each=True,
            progress=self.progress,
        )
        found.about |= wanted
        found.save(path)
        return found

    # --- what they are chosen by -------------------------------------------------------------------------------------

    @property
    def tuned(self) -> dict[str, str]:
        """The tuned models in the order of the text's languages."""
        return {tag: self.settings.tuned[tag] for tag in self.text.languages}

    def _tuned_files(self) -> dict[str, str]:
        """What tells one tuning from another at the same place: its files' sizes and times."""
        files = {tag: sorted(Path(path).glob("*.safetensors")) for tag, path in self.tuned.items()}
        stats = {tag: [file.stat() for file in found] for tag, found in files.items()}
        return {
            tag: " ".join([self.tuned[tag], *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in found)])
            for tag, found in stats.items()
        }

    def evidence(self, part: str) -> Evidence:
        """What a part of the recorded text says: all, a half, so many tokens; a seed is all with another draw."""
        if part not in self._evidence:
            if part.startswith("seed"):
                self._evidence[part] = replace(self.evidence(ALL), seed=int(part.split()[1]))
            else:
                self._evidence[part] = Evidence(
                    self._recording(part),
                    self._samples(part) if "regions" in self.settings.methods else None,
                    None if self.partition is None else self.partition.labels,
                    self._rates() if "pv" in self.settings.methods and part == ALL else None,
                )
        return self._evidence[part]

    def _recording(self, part: str) -> Recording:
        if part == ALL:
            return self._recording(HALVES[0]) + self._recording(HALVES[1])
        limit = self.run.manifest.record.tokens
        if part in HALVES:
            text, limit = self.text.half(HALVES.index(part)), max(1, limit // 2)
        else:
            text, limit = self.text, int(part.split()[0])
        name = part.replace(" ", "-") + ("" if self.partition is None else "-experts")
        return self._timed_step(
            f"recording {part}",
            lambda: record(
                self.model,
                text,
                tokens=limit,
                block=self.run.manifest.record.block,
                batch_tokens=self.run.manifest.record.batch_tokens,
                statistics=STATISTICS,
                partition=self.partition,
                directory=self.folder / "evidence" / name,
                progress=self.progress,
            ),
        )

    def _samples(self, part: str) -> Samples:
        longest = getattr(self.model.text_config, "max_position_embeddings", None) or SAMPLE_TOKENS + 1
        samples = self._timed_step(
            "samples",
            lambda: record_samples(
                self.model,
                self.text,
                samples=self.settings.samples,
                max_tokens=min(SAMPLE_TOKENS, longest - 1),
                missing="drop",
                states=False,
                statistics=("active",),
                directory=self.folder / "samples" / str(self.settings.samples),
                progress=self.progress,
            ),
        )
        count = len(samples)
        if part in HALVES:
            index = torch.arange(HALVES.index(part), count, 2)
        elif part == ALL:
            return samples
        else:
            assert samples.recording is not None
            a_sample = float(samples.recording.tokens.double().mean()) / count
            index = torch.arange(min(count, max(2, round(int(part.split()[0]) / a_sample))))
        keys = tuple(samples.keys[i] for i in index.tolist())
        return replace(samples, vectors=samples.vectors[:, index], keys=keys, recording=None)

    def _rates(self) -> Tensor:
        path = self.folder / "rates.safetensors"
        about = {"tuned": self._tuned_files()}
        if path.is_file():
            tensors, before = load_tensors(path, "variation", 1)
            if before == about:
                return tensors["rates"]
        rates = self._timed_step(
            "reading weights",
            lambda: variation_rates(self.run.manifest.model.source, self.tuned, progress=self.progress),
        )
        save_tensors(path, "variation", 1, {"rates": rates}, about)
        return rates

    # --- time --------------------------------------------------------------------------------------------------------

    def _timed_step(self, name: str, step: Callable[[], Made]) -> Made:
        started = time.perf_counter()
        made = step()
        if self._times and name not in self._steps:  # a second time it is only read
            self._steps[name] = time.perf_counter() - started
            save_text(self._timed, json.dumps(self._steps, indent=1))
        return made

    def _steps_of(self, method: str) -> dict[str, float]:
        """What a method waited for before it could choose."""
        if method == "random":
            return {}
        if method == "pv":
            about = [read_json(Path(path) / "tuning.json") or {} for path in self.tuned.values()]
            known = all("seconds" in each for each in about)
            tuning = {"tuning": sum(each["seconds"] for each in about)} if known else {}
            return tuning | {k: v for k, v in self._steps.items() if k == "reading weights"}
        if method == "regions":
            return {k: v for k, v in self._steps.items() if k == "samples"}
        halves = [self._steps[name] for half in HALVES if (name := f"recording {half}") in self._steps]
        return {"recording": sum(halves)} if halves else {}


def _default_regions(evidence: Evidence) -> NeuronSet:
    assert evidence.samples is not None
    return key_regions(evidence.samples)


def _default_variation(evidence: Evidence) -> NeuronSet:
    assert evidence.rates is not None
    return NeuronSet(least_varied(evidence.rates, 0.01), evidence.recording.languages, {"method": "pv"})


DEFAULTS: Mapping[str, Callable[[Evidence], NeuronSet]] = {
    "margin": lambda evidence: margin(evidence.recording),
    "lape": lambda evidence: lape(evidence.recording),
    "lap": lambda evidence: lap(evidence.recording),
    "lave": lambda evidence: lave(evidence.recording),
    "pv": _default_variation,
    "regions": _default_regions,
}
"""What each method chooses by itself; the others choose nothing unless told how many."""
