"""Identification in a run: a method's neurons, kept."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError
from neuroglot.identify.units import Units, of_units, units_of
from neuroglot.run.settings import PLAIN
from neuroglot.storage.locks import locked

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.artifacts.recording import Recording
    from neuroglot.identify.registry import Method
    from neuroglot.identify.selection import Evidence
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import Manifest


def identify_run(
    run: "Run", method: str, settings: dict[str, Any], shares: str = "joint", units: "Units" = "neurons"
) -> "NeuronSet":
    """Run one method on what the run has recorded and keep what it finds.

    Args:
        run: the run.
        method: its name.
        settings: of the method.
        shares: of a native mixture of experts: `joint`, of all tokens of a language, or `conditional`, of those that
            reach a neuron's expert; see `Recording.given_routing`.
        units: which it is to find; heads are kept as those of `METHOD heads`.

    Raises:
        NeuroglotError: the method is unknown, has no such setting, or needs what the run has not; or shares are to be
            conditional and the model is dense.
    """
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.identify.ranking import choose
    from neuroglot.identify.registry import find

    found = find(method)
    evidence = evidence_of(run, found.evidence)
    said = {**found.defaults, **settings}
    more: dict[str, Any] = {}
    if units == "heads":
        evidence = replace(evidence, recording=_of_heads(run, found, evidence.recording))
        more["units"] = units
    elif shares == "conditional":
        evidence = replace(evidence, recording=evidence.recording.given_routing())
        more["shares"] = shares
    neurons = choose(method, evidence, **settings)
    if more:
        neurons = NeuronSet(neurons.mask, neurons.languages, {**neurons.about, **more})
    return keep_neurons(run, of_units(method, units), neurons, said | more)


def finds_heads(method: "Method") -> bool:
    """Whether a method can choose heads: it needs nothing but what is recorded of them too."""
    of_heads = {*PLAIN, "output", "attribution", "relevance"}
    return set(method.statistics) <= of_heads and set(method.evidence) <= {"seed"}


def _of_heads(run: "Run", method: "Method", recording: "Recording") -> "Recording":
    """The recording of the run's heads, for a method that can find them.

    Raises:
        NeuroglotError: it cannot, or they were not recorded.
    """
    from neuroglot.artifacts.recording import HEADS

    if not finds_heads(method):
        raise NeuroglotError(f"{method.name} needs what is not recorded of heads; leave --units heads out.")
    if HEADS not in recording.sums:
        raise NeuroglotError(f"{run.path} was recorded without heads; record with --heads into another --out.")
    of_heads = recording.of("heads")
    if missing := [name for name in method.statistics if name not in of_heads.sums]:
        raise NeuroglotError(
            f"{method.name} needs {missing[0]} of the heads, which {run.path} has not; record with --heads and "
            f"--statistic {missing[0]} into another --out."
        )
    return of_heads


def evidence_of(run: "Run", needs: tuple[str, ...]) -> "Evidence":
    """What the run holds of what a method needs; the method says what is lacking."""
    from neuroglot.artifacts.recording import EXPERTS, ROUTED
    from neuroglot.artifacts.samples import Samples
    from neuroglot.identify.selection import Evidence

    recording, labels, samples = run.recording, None, None
    if "experts" in needs and ROUTED in recording.sums:
        from neuroglot.experts.overlap import native_labels

        labels = native_labels(recording)
    elif "experts" in needs and run.manifest.experts is not None:
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
    with locked(run.path):  # so that a measurement ends before all of it, or after; see `Run.measured_with`
        with suppress(NeuroglotError):  # none, or damaged
            before = run.neurons(method, units_of(method))
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
