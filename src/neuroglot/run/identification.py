"""Identification in a run: a method's neurons, kept."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError
from neuroglot.run.settings import PLAIN

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.identify.selection import Evidence
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import Manifest


def identify_run(run: "Run", method: str, settings: dict[str, Any]) -> "NeuronSet":
    """Run one method on what the run has recorded and keep what it finds.

    Raises:
        NeuroglotError: the method is unknown, has no such setting, or needs what the run has not.
    """
    from neuroglot.identify.ranking import choose
    from neuroglot.identify.registry import find

    found = find(method)
    neurons = choose(method, evidence_of(run, found.evidence), **settings)
    return keep_neurons(run, method, neurons, {**found.defaults, **settings})


def evidence_of(run: "Run", needs: tuple[str, ...]) -> "Evidence":
    """What the run holds of what a method needs; the method says what is lacking."""
    from neuroglot.artifacts.recording import EXPERTS
    from neuroglot.artifacts.samples import Samples
    from neuroglot.identify.selection import Evidence

    recording, labels, samples = run.recording, None, None
    if "experts" in needs and run.manifest.experts is not None:
        labels = run.partition.labels
        if not any(name.startswith(EXPERTS) for name in recording.sums):
            recording = run.expert_recording
    if "samples" in needs and run.manifest.align is not None:
        samples = Samples.load(run.samples_path)
        recording, samples = recording.select(samples.languages), samples
    return Evidence(recording, samples, labels)


def beyond_recording(method: str) -> str | None:
    """What a method needs beside what a plain recording holds; None if nothing.

    Raises:
        NeuroglotError: the method is unknown.
    """
    from neuroglot.identify.registry import EVIDENCE, described

    found = described(method)
    lacking = [EVIDENCE[need] for need in found.evidence if need != "seed"]
    lacking += [name for name in found.statistics if name not in PLAIN]
    return lacking[0] if lacking else None


def keep_neurons(run: "Run", method: str, neurons: "NeuronSet", settings: dict[str, Any]) -> "NeuronSet":
    """Save neurons as a method's of this run, and drop what measured others that it found before."""
    before = None
    with suppress(NeuroglotError):  # none, or damaged
        before = run.neurons(method)
    if before != neurons:  # drop first: stopped between the two, old neurons without measurements are left
        with run.changing() as manifest:
            forget_measured(run, manifest, method)
    neurons.save(run.neurons_path(method))
    with run.changing() as manifest:
        manifest.identify[method] = settings
    return neurons


def forget_measured(run: "Run", manifest: "Manifest", method: str) -> None:
    """Drop what measured the neurons that a method found before."""
    if manifest.tasks:
        from neuroglot.run.tasks import forget_tasks

        forget_tasks(run, method)
    if manifest.steering:
        from neuroglot.run.steering import forget_answers

        forget_answers(run, manifest, method)
    manifest.perturb.pop(method, None)
    run.perturbation_path(method).unlink(missing_ok=True)
