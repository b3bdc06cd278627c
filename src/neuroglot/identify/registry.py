"""Every method as a ranking of the neurons for each language, so that all can be given the same budget.

Methods choose by thresholds of their own and so choose sets of very different sizes; an effect of twice the neurons
says nothing about the method. Here each
says which neurons it would choose first, and `select_top` chooses as many as it is asked for.
"""

from collections.abc import Callable

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.errors import NeuroglotError
from neuroglot.identify.expert_frequency import _experts
from neuroglot.identify.key_regions import _scores
from neuroglot.identify.lap import _lap, lap
from neuroglot.identify.lape import _lape, _lave, lape, lave
from neuroglot.identify.margin import _margin, margin
from neuroglot.identify.parameter_variation import _variation
from neuroglot.identify.random_neurons import _random, random
from neuroglot.identify.selection import Evidence, Scores

__all__ = ["METHODS", "RANKINGS", "rank"]


def rank(method: str, evidence: Evidence) -> Scores:
    """How early a method would take each neuron for each language: the highest score first, −∞ never.

    Raises:
        NeuroglotError: the method is unknown, or what it needs was not measured.
    """
    if method not in RANKINGS:
        raise NeuroglotError(f"{method} is no method of comparison; choose among {', '.join(RANKINGS)}.")
    return RANKINGS[method](evidence)


RANKINGS: dict[str, Callable[[Evidence], Scores]] = {
    "margin": _margin,
    "lape": _lape,
    "lap": _lap,
    "lave": _lave,
    "pv": _variation,
    "regions": _scores,
    "experts": _experts,
    "random": _random,
}
"""How each method ranks."""

METHODS: dict[str, Callable[..., NeuronSet]] = {
    "lape": lape,
    "lap": lap,
    "lave": lave,
    "margin": margin,
    "random": random,
}
"""The methods of a recording, by name; `key_regions` reads samples, `parameter_variation` checkpoints."""
