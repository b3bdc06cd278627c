"""Every method as a ranking of the neurons for each language, so that all can be given the same budget.

Methods choose by thresholds of their own and so choose sets of very different sizes; an effect of twice the neurons
says nothing about the method. `rank` says which neurons a method would choose first, and `select_top` chooses as many
as it is asked for. `choose` is what a method chooses by itself.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.recording import EXPERTS, ROUTED, Recording
from neuroglot.artifacts.widths import within
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import EVIDENCE, Method, find, known, names
from neuroglot.identify.selection import Evidence, Scores, select_top
from neuroglot.storage.given import integer, real

__all__ = ["METHODS", "RANKINGS", "choose", "rank"]


def rank(method: str, evidence: Evidence) -> Scores:
    """How early a method would take each neuron for each language: the highest score first, −∞ never.

    Raises:
        NeuroglotError: the method is unknown, what it needs was not measured, or its scores are none.
    """
    found = find(method)
    assert found.scores is not None
    return _checked(found.scores(_given(found, evidence)), found, evidence.recording)


def choose(method: str, evidence: Evidence, **settings: Any) -> NeuronSet:
    """What a method chooses by itself. One that only ranks gives each language the same share, `top_fraction`.

    Raises:
        NeuroglotError: see `rank`; or a setting is not the method's, or out of range.
    """
    found = find(method)
    for name in settings:
        if name not in found.settings:
            raise NeuroglotError(f"{method} has no {name.replace('_', '-')}; leave the option out.")
    for name, default in found.defaults.items():
        if name in settings and type(default) in (int, float):
            settings[name] = real(settings[name], name) if type(default) is float else integer(settings[name], name)
    if found.choice is not None:
        neurons: NeuronSet = found.choice(_given(found, evidence), **settings)
        return neurons
    how = {**found.defaults, **settings}
    scores = rank(method, replace(evidence, seed=how.get("seed", evidence.seed)))
    about = {"method": method, **how, **origin(evidence.recording)}
    neurons = select_top(scores, evidence.recording.languages, how["top_fraction"], about, evidence.recording.widths)
    wanted = round(how["top_fraction"] * sum(evidence.recording.widths))
    if short := [f"{count} in {tag}" for tag, count in neurons.sizes().items() if count < wanted]:
        warnings.warn(
            f"{method} found fewer than the {wanted} {evidence.recording.units} asked for: {', '.join(short)}.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return neurons


def _given(method: Method, evidence: Evidence) -> Evidence | Recording:
    """What a method's functions are given.

    Raises:
        NeuroglotError: it was not measured.
    """
    there = {
        "samples": evidence.samples is not None,
        "experts": evidence.labels is not None
        and any(name == ROUTED or name.startswith(EXPERTS) for name in evidence.recording.sums),
        "tuned": evidence.rates is not None,
        "seed": True,
    }
    for need in method.evidence:
        if not there[need]:
            raise NeuroglotError(f"{method.name} needs {EVIDENCE[need]}; leave it out where there is none.")
    evidence.recording.check_recorded(*method.statistics)
    return evidence if method.evidence else evidence.recording


def _checked(scores: Any, method: Method, recording: Recording) -> Scores:
    """Refuse what are no scores, before anything is made of them."""
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        what = f"a tensor of {scores.dtype}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise NeuroglotError(f"The scores of {method.name} must be a tensor of floating-point numbers, not {what}.")
    shape = (len(recording.languages), recording.layers, recording.neurons)
    if tuple(scores.shape) != shape:
        raise NeuroglotError(
            f"The scores of {method.name} must be (languages, layers, neurons) = {shape}, not {tuple(scores.shape)}."
        )
    if bool(scores.isnan().any()):
        raise NeuroglotError(
            f"The scores of {method.name} hold NaN, which has no rank; give −inf to a neuron that is never chosen."
        )
    return within(scores.detach().to("cpu", torch.float64), recording.widths)


class _Ways(Mapping[str, Callable[..., Any]]):
    """The methods as functions, by name: a view of the registry."""

    def __init__(self, way: Callable[[Method], Callable[..., Any]], wanted: Callable[[Method], bool]):
        self._way, self._wanted = way, wanted

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in names() or not self._wanted(found := find(name)):
            raise KeyError(name)
        return self._way(found)

    def __iter__(self) -> Iterator[str]:
        return (found.name for found in known() if self._wanted(found))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _of_recording(name: str, recording: Recording, **settings: Any) -> NeuronSet:
    return choose(name, Evidence(recording), **settings)


RANKINGS: Mapping[str, Callable[[Evidence], Scores]] = _Ways(
    lambda found: partial(rank, found.name), lambda found: True
)
"""How each method ranks."""

METHODS: Mapping[str, Callable[..., NeuronSet]] = _Ways(
    lambda found: partial(_of_recording, found.name), lambda found: set(found.evidence) <= {"seed"}
)
"""What the methods that any recording will do for choose: a function of the recording and of settings."""
