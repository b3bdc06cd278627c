"""Identification in a run: a method's neurons, kept."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.run.directory import Run


def identify_run(run: "Run", method: str, settings: dict[str, Any]) -> "NeuronSet":
    """Run one method on the run's recording and keep what it finds."""
    from inspect import signature

    from neuroglot.identify.registry import METHODS

    if method not in METHODS:
        raise NeuroglotError(f"{method} is not a method; choose among {', '.join(METHODS)}.")
    accepted = signature(METHODS[method]).parameters
    unused = [name for name in settings if name not in accepted]
    if unused:
        raise NeuroglotError(f"{method} has no {unused[0].replace('_', '-')}; leave the option out.")
    neurons = METHODS[method](run.recording, **settings)
    defaults = {name: p.default for name, p in accepted.items() if p.default is not p.empty}
    return keep_neurons(run, method, neurons, defaults | settings)


def keep_neurons(run: "Run", method: str, neurons: "NeuronSet", settings: dict[str, Any]) -> "NeuronSet":
    """Save neurons as a method's of this run, and drop what measured others that it found before."""
    before = None
    with suppress(NeuroglotError):  # none, or damaged
        before = run.neurons(method)
    if before != neurons:  # drop first: stopped between the two, old neurons without measurements are left
        run.manifest.perturb.pop(method, None)
        run.perturbation_path(method).unlink(missing_ok=True)
        if run.manifest.tasks:
            from neuroglot.run.tasks import forget_tasks

            forget_tasks(run, method)
        run.save()
    neurons.save(run.neurons_path(method))
    run.manifest.identify[method] = settings
    run.save()
    return neurons
