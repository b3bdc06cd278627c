"""Experts in a run: neurons grouped, and how often each language activates each group."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float64, Int64
from torch import Tensor

from neuroglot.artifacts.origin import check_precision
from neuroglot.artifacts.recording import ROUTED, Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import frequencies, high_threshold
from neuroglot.experts.moefication import check_number
from neuroglot.experts.overlap import native_labels
from neuroglot.experts.routing import routing_layers
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.recording import make_partition, one_pass
from neuroglot.run.settings import ExpertSettings, ModelSettings
from neuroglot.storage.results import refuse_differing

__all__ = ["RunExperts", "check_experts", "experts_of", "record_experts", "record_tuned"]


@dataclass(frozen=True, eq=False)
class RunExperts:
    """The experts of a run, made by a partition or the model's own, and how often each is activated.

    Attributes:
        recording: that counted them.
        labels: the expert of each neuron; -1 of shared ones, and beyond a layer's width.
        top: the share of experts that is activated on a token; None where a router chooses.
    """

    recording: Recording
    labels: Int64[Tensor, "layers neurons"]
    top: float | None

    @property
    def native(self) -> bool:
        """Whether they are the model's own."""
        return self.top is None

    @cached_property
    def layers(self) -> list[int]:
        """The layers that have experts, from 0."""
        return routing_layers(self.recording) if self.native else list(range(self.recording.layers))

    @cached_property
    def frequency(self) -> Float64[Tensor, "languages layers experts"]:
        """How often each is activated by each language, in the layers that have experts."""
        return frequencies(self.recording, self.top)[:, self.layers]

    @cached_property
    def high(self) -> float:
        """From which frequency on one is high-frequency."""
        return high_threshold(self.recording)

    @property
    def chosen(self) -> str:
        """How many of how many experts the router chooses, in words; empty where there is none."""
        if not self.native:
            return ""
        sizes = {self.recording.experts[layer][0] for layer in self.layers}  # type: ignore[index]
        each = self.frequency.sum(2).mean(0)
        least, most = (f"{float(end):.3g}" for end in (each.min(), each.max()))
        return f"{least if least == most else f'{least} to {most}'} of {' or '.join(map(str, sorted(sizes)))}"


def experts_of(run: Run) -> RunExperts | None:
    """The experts that were counted in a run; None if none were."""
    try:
        recording = run.recording
        if ROUTED in recording.sums:
            return RunExperts(recording, native_labels(recording), None)
        settings = run.manifest.experts
        return None if settings is None else RunExperts(run.expert_recording, run.partition.labels, settings.top[0])
    except NeuroglotError:
        return None  # begun, and not finished


def check_experts(run: Run, settings: ExpertSettings) -> None:
    """Refuse what `record_experts` would refuse, before the model is opened.

    Raises:
        NeuroglotError: the run has experts of other settings, or its layers have fewer neurons.
    """
    if run.manifest.experts is not None:
        refuse_differing(
            f"{run.path} has experts",
            run.manifest.experts.model_dump(),
            settings.model_dump(),
            f"repeat those, or delete {run.path / 'experts'} and the experts in run.json",
        )
    check_number(settings.experts, run.recording.widths)


def record_experts(
    run: Run, model: Model, corpus: Corpus, settings: ExpertSettings, *, progress: bool = True
) -> Recording:
    """Split the model's neurons into experts and count on how many tokens of the run's text each is activated.

    Goes on with what is there, if it was begun with the same settings.

    Raises:
        NeuroglotError: the run has experts of other settings.
    """
    check_experts(run, settings)
    split = make_partition(run, model, settings)
    if run.manifest.record.experts == settings:
        return run.recording
    return one_pass(
        run,
        model,
        corpus,
        directory=run.path / "experts" / "recording",
        statistics=("active", "magnitude"),
        partition=split,
        top=settings.top,
        examples=0,
        progress=progress,
    )


def record_tuned(
    run: Run, settings: ModelSettings, variant: Model, corpus: Corpus, *, progress: bool = True
) -> Recording:
    """Count the activations of the run's experts in a tuned variant of its model, on the run's text (§4.4).

    Raises:
        NeuroglotError: the run has counted no experts, has another variant, or the variant has another shape or is
            opened in another precision.
    """
    own = experts_of(run)
    before = own.recording if own is not None and own.native else run.expert_recording  # says so if there is none
    if run.manifest.tuned is not None:
        refuse_differing(
            f"{run.path} has a tuned variant",
            run.manifest.tuned.model_dump(),
            settings.model_dump(),
            f"delete {run.path / 'experts' / 'tuned'} and `tuned` in run.json to count another",
        )
    native = ROUTED in before.sums
    if before.provenance is not None and before.provenance.fingerprint == variant.fingerprint:
        raise NeuroglotError(f"{variant.name} has the weights of the run's own model: nothing was tuned.")
    if before.provenance is not None:
        check_precision(before.provenance.dtype, variant.dtype, (before.provenance.model, variant.name))
    if native and variant.expert_sizes != before.experts:
        raise NeuroglotError(f"{variant.name} has other experts than {run.manifest.model.source}; give its variant.")
    counted = run.manifest.experts
    made = one_pass(
        run,
        variant,
        corpus,
        directory=run.path / "experts" / "tuned",
        statistics=("active",),
        partition=None if counted is None else run.partition.of_variant(),
        top=(0.1,) if counted is None else counted.top,
        examples=0,
        progress=progress,
    )
    with run.changing() as manifest:
        manifest.tuned = settings
    return made
