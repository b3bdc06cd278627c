"""Experts in a run: neurons grouped, and how often each language activates each group."""

from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.recording import make_partition, one_pass
from neuroglot.run.settings import ExpertSettings, ModelSettings
from neuroglot.storage.results import refuse_differing

__all__ = ["record_experts", "record_tuned"]


def record_experts(
    run: Run, model: Model, corpus: Corpus, settings: ExpertSettings, *, progress: bool = True
) -> Recording:
    """Split the model's neurons into experts and count on how many tokens of the run's text each is activated.

    Goes on with what is there, if it was begun with the same settings.

    Raises:
        NeuroglotError: the run has experts of other settings.
    """
    if run.manifest.experts is not None:
        refuse_differing(
            f"{run.path} has experts",
            run.manifest.experts.model_dump(),
            settings.model_dump(),
            f"repeat those, or delete {run.path / 'experts'} and the experts in run.json",
        )
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
        NeuroglotError: the run has counted no experts, has another variant, or the variant has another shape.
    """
    before = run.expert_recording  # says so if there is none
    if run.manifest.tuned is not None:
        refuse_differing(
            f"{run.path} has a tuned variant",
            run.manifest.tuned.model_dump(),
            settings.model_dump(),
            f"delete {run.path / 'experts' / 'tuned'} and `tuned` in run.json to count another",
        )
    if before.provenance is not None and before.provenance.fingerprint == variant.fingerprint:
        raise NeuroglotError(f"{variant.name} has the weights of the run's own model: nothing was tuned.")
    assert run.manifest.experts is not None
    made = one_pass(
        run,
        variant,
        corpus,
        directory=run.path / "experts" / "tuned",
        statistics=("active",),
        partition=run.partition.of_variant(),
        top=run.manifest.experts.top,
        examples=0,
        progress=progress,
    )
    with run.changing() as manifest:
        manifest.tuned = settings
    return made
