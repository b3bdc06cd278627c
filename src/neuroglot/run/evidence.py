"""The evidence of a comparison: what each part of a run's text says of the neurons, made when first asked for, kept."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.recording import HEADS, Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.comparison import ALL
from neuroglot.experts.overlap import native_labels
from neuroglot.identify.parameter_variation import variation_rates, varied_parameters
from neuroglot.identify.registry import Method, known
from neuroglot.identify.selection import Evidence
from neuroglot.models.model import Model
from neuroglot.recording.record_samples import record_samples
from neuroglot.recording.recorder import record
from neuroglot.recording.statistics.gradients import GRADIENTS
from neuroglot.recording.statistics.own import check_statistics
from neuroglot.run.directory import Run
from neuroglot.run.settings import PLAIN
from neuroglot.storage.atomic import read_json
from neuroglot.storage.results import save_json
from neuroglot.storage.tensors import load_tensors, save_tensors

__all__ = ["EvidenceByPart", "lacking", "possible"]

HALVES = ("half 1", "half 2")
SAMPLE_TOKENS = 200  # of a sample for key regions at most, as the paper has it

T = TypeVar("T")


def lacking(method: Method, run: Run, text: Corpus, tuned: dict[str, str]) -> str | None:
    """What a method needs and this comparison cannot give it, with what to do; None if nothing."""
    untuned = [tag for tag in text.languages if tag not in tuned]
    if "experts" in method.needs and not _partition_path(run).is_file() and not run.is_mixture():
        return f"{method.name} needs a partition; run `neuroglot experts {run.path}`, or leave it out."
    if "samples" in method.needs and not text.parallel:
        return f"{method.name} needs a parallel corpus, and this one is not; leave the method out."
    if "tuned" in method.needs and untuned:
        return (
            f"{method.name} needs a model tuned on each language, and there is none for {', '.join(untuned)}; make "
            "them with `neuroglot tune`, or leave the method out."
        )
    try:
        check_statistics(method.statistics)
    except NeuroglotError:
        return f"{method.name} needs {', '.join(method.statistics)}, which cannot be recorded; leave the method out."
    return None


def possible(run: Run, text: Corpus, tuned: dict[str, str]) -> tuple[list[str], list[str]]:
    """The methods that a comparison can give what they need; and for each of the others, what it lacks."""
    found = {method.name: lacking(method, run, text, tuned) or _costly(method) for method in known()}
    return [name for name, lack in found.items() if lack is None], [lack for lack in found.values() if lack is not None]


def _costly(method: Method) -> str | None:
    """Why a method is only compared where it is named; None if it is always."""
    more = [statistic for statistic in method.statistics if statistic not in PLAIN]
    if not more:
        return None
    what = "gradients, about four more passes" if set(more) & set(GRADIENTS) else f"{more[0]}, which is recorded anew"
    return f"{method.name} needs {what}; name it in --methods to have it."


def _partition_path(run: Run) -> Path:
    return run.path / "experts" / "partition.safetensors"


class EvidenceByPart:
    """What the parts of a run's text say: `all`, `half 1`, `half 2`, `500 tokens` …; `seed 1` is all, drawn again.

    Attributes:
        tuned: language → the model tuned on it, in the order of the text's languages.
    """

    def __init__(
        self,
        run: Run,
        model: Model,
        text: Corpus,
        methods: Sequence[Method],
        *,
        samples: int,
        tuned: dict[str, str],
        progress: bool,
        heads: bool = False,
    ):
        self.run, self.model, self.text, self.progress = run, model, text, progress
        self.samples = samples
        self.folder = run.path / "comparison"
        wanted = {name: None for method in methods for name in method.statistics if name not in PLAIN}
        self._gradients = [name for name in wanted if name in GRADIENTS]
        self._heads = [HEADS] * heads
        self._more = [*(name for name in wanted if name not in GRADIENTS), *self._heads]
        self._needs = {need for method in methods for need in method.needs}
        self.tuned = {tag: tuned[tag] for tag in text.languages} if "tuned" in self._needs else {}
        made = "experts" in self._needs and not run.is_mixture()  # a native mixture of experts has its own
        self._partition = Partition.load(_partition_path(run)) if made else None
        self._steps = _StepTimes(self.folder / "seconds.json")
        self._made: dict[str, Evidence] = {}

    def of(self, part: str) -> Evidence:
        """The evidence of a part."""
        if part not in self._made:
            if part.startswith("seed"):
                self._made[part] = replace(self.of(ALL), seed=int(part.split()[1]))
            else:
                recording = self._recording(part)
                native = "experts" in self._needs and recording.experts is not None
                made = None if self._partition is None else self._partition.labels
                self._made[part] = Evidence(
                    recording,
                    self._samples(part) if "samples" in self._needs else None,
                    native_labels(recording) if native else made,
                    self._rates() if "tuned" in self._needs and part == ALL else None,
                )
        return self._made[part]

    def seconds(self, method: Method) -> dict[str, float]:
        """What a method waited for before it could choose, by step."""
        steps, found = self._steps.seconds, {}
        if "tuned" in method.needs:
            about = [read_json(Path(path) / "tuning.json") or {} for path in self.tuned.values()]
            if all("seconds" in each for each in about):
                found["tuning"] = sum(each["seconds"] for each in about)
            found |= {name: steps[name] for name in ("reading weights",) if name in steps}
        if "samples" in method.needs:
            found |= {name: steps[name] for name in ("samples",) if name in steps}
        halves = [
            steps[name]
            for half in HALVES
            for name in (f"recording {half}", f"earlier recording {half}")  # before the run was extended
            if name in steps
        ]
        if halves and (set(method.statistics) - set(GRADIENTS) or "experts" in method.needs):
            found["recording"] = sum(halves)
        for name in set(method.statistics) & set(GRADIENTS):
            found[name] = sum(steps.get(f"recording {half} {name}", 0.0) for half in HALVES)
        return found

    def varied_parameters(self, share: float) -> ParameterSet:
        """The single parameters that tuning on a language left alone, a share of all for each."""
        path = self.folder / "parameters.safetensors"
        wanted = {"top_fraction": share, "tuned": self._tuned_files()}
        with suppress(NeuroglotError):  # it is not there, or damaged
            found = ParameterSet.load(path)
            if {name: found.about.get(name) for name in wanted} == wanted:
                return found
        base = self.run.manifest.model.source
        found = varied_parameters(base, self.tuned, top_fraction=share, each=True, progress=self.progress)
        found.about |= wanted
        found.save(path)
        return found

    # --- how it is made ----------------------------------------------------------------------------------------------

    def _recording(self, part: str) -> Recording:
        if part == ALL:
            return self._recording(HALVES[0]) + self._recording(HALVES[1])
        how = self.run.manifest.record
        if part in HALVES:
            text, limit = self.text.half(HALVES.index(part)), max(1, how.tokens // 2)
        else:
            text, limit = self.text, int(part.split()[0])
        name = part.replace(" ", "-") + ("" if self._partition is None else "-experts")

        def recorded(statistics: Sequence[str], beside: str, partition: Partition | None) -> Recording:
            return record(
                self.model,
                text,
                tokens=limit,
                block=how.block,
                batch_tokens=how.batch_tokens,
                statistics=tuple(statistics),
                partition=partition,
                directory=self.folder / "evidence" / "-".join([name, *beside.split()]),
                progress=self.progress,
            )

        found = self._steps.timed(
            f"recording {part}", lambda: recorded((*PLAIN, *self._more), " ".join(self._more), self._partition)
        )
        sums = dict(found.sums)
        for gradient in self._gradients:  # apart, so that its cost is its own
            step = partial(recorded, (gradient, *self._heads), " ".join([gradient, *self._heads]), None)
            sums |= self._steps.timed(f"recording {part} {gradient}", step).sums
        return replace(found, sums=sums)

    def _samples(self, part: str) -> Samples:
        longest = getattr(self.model.text_config, "max_position_embeddings", None) or SAMPLE_TOKENS + 1
        samples = self._steps.timed(
            "samples",
            lambda: record_samples(
                self.model,
                self.text,
                samples=self.samples,
                max_tokens=min(SAMPLE_TOKENS, longest - 1),
                missing="drop",
                states=False,
                statistics=("active",),
                directory=self.folder / "samples" / str(self.samples),
                progress=self.progress,
            ),
        )
        return samples if part == ALL else _samples_of_part(samples, part)

    def _rates(self) -> Tensor:
        path = self.folder / "rates.safetensors"
        about = {"tuned": self._tuned_files()}
        with suppress(NeuroglotError):  # they are not there, or damaged
            tensors, before = load_tensors(path, "variation", 1)
            if before == about:
                return tensors["rates"]
        base = self.run.manifest.model.source
        rates = self._steps.timed("reading weights", lambda: variation_rates(base, self.tuned, progress=self.progress))
        save_tensors(path, "variation", 1, {"rates": rates}, about)
        return rates

    def _tuned_files(self) -> dict[str, str]:
        """What tells one tuning from another at the same place: its files' sizes and times."""
        files = {tag: sorted(Path(path).glob("*.safetensors")) for tag, path in self.tuned.items()}
        stats = {tag: [file.stat() for file in found] for tag, found in files.items()}
        return {
            tag: " ".join([self.tuned[tag], *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in found)])
            for tag, found in stats.items()
        }


def _samples_of_part(samples: Samples, part: str) -> Samples:
    """Every other sample for a half; as many as hold so many tokens."""
    count = len(samples)
    if part in HALVES:
        index = torch.arange(HALVES.index(part), count, 2)
    else:
        assert samples.recording is not None
        a_sample = float(samples.recording.tokens.double().mean()) / count
        index = torch.arange(min(count, max(2, round(int(part.split()[0]) / a_sample))))
    keys = tuple(samples.keys[i] for i in index.tolist())
    return replace(samples, vectors=samples.vectors[:, index], keys=keys, recording=None)


class _StepTimes:
    """How long steps took the first time; kept, since a second time they are only read."""

    def __init__(self, file: Path):
        kept = read_json(file)
        self.seconds: dict[str, float] = kept or {}
        self._file = file
        self._lost = kept is None and file.is_file()  # what is read again has no time

    def timed(self, name: str, step: Callable[[], T]) -> T:
        """Take a step."""
        started = time.perf_counter()
        made = step()
        if not self._lost and name not in self.seconds:
            self.seconds[name] = time.perf_counter() - started
            save_json(self._file, self.seconds)
        return made
