"""Every method as a ranking of the neurons for each language, so that all can be given the same budget.

Methods choose by thresholds of their own and so choose sets of very different sizes; an effect of twice the neurons
says nothing about the method. Here each says which neurons it would take first, and `take` takes as many as it is told.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.identify.entropy import entropy
from neuroglot.identify.margin import margins
from neuroglot.identify.random import generator_of
from neuroglot.identify.regions import contributions
from neuroglot.identify.variation import variation_entropy
from neuroglot.neurons import NeuronSet
from neuroglot.recording import EXPERTS, Recording, Samples

__all__ = ["RANKINGS", "Evidence", "Scores", "rank", "take"]

Scores = Float64[Tensor, "languages layers neurons"]
NEVER = -math.inf


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured of a model, for the methods to judge by.

    Attributes:
        recording: K languages; each method says which statistics it needs.
        samples: of the same languages in the same order, for key regions.
        labels: which expert each neuron belongs to, for expert frequency.
        rates: how much tuning on each language changed each neuron (`variation_rates`), for parameter variation.
        seed: of the random ranking.
    """

    recording: Recording
    samples: Samples | None = None
    labels: Int64[Tensor, "layers neurons"] | None = None
    rates: Float64[Tensor, "languages layers neurons"] | None = None
    seed: int = 0


def rank(method: str, evidence: Evidence) -> Scores:
    """How early a method would take each neuron for each language: the highest score first, −∞ never.

    Raises:
        NeuroglotError: the method is unknown, or what it needs was not measured.
    """
    if method not in RANKINGS:
        raise NeuroglotError(f"{method} is no method of comparison; choose among {', '.join(RANKINGS)}.")
    return RANKINGS[method](evidence)


def take(scores: Scores, languages: tuple[str, ...], share: float, about: Mapping[str, Any] | None = None) -> NeuronSet:
    """The `round(share · all)` neurons that score highest for each language; of equal ones the first.

    A language for which fewer have a score above −∞ gets fewer.

    Raises:
        NeuroglotError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise NeuroglotError(f"A budget is a share of all neurons, above 0 and at most 1, not {share:g}.")
    flat = scores.flatten(1)
    order = flat.sort(dim=1, descending=True, stable=True).indices[:, : round(share * flat.shape[1])]
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True) & (flat > NEVER)
    return NeuronSet(mask.view(scores.shape), languages, about)


def _lape(evidence: Evidence) -> Scores:
    return _by_entropy(evidence.recording.mean("active"))


def _lave(evidence: Evidence) -> Scores:
    return _by_entropy(evidence.recording.mean("activation").clamp_min_(0))


def _by_entropy(values: Float64[Tensor, "layers neurons languages"], quantile: float = 0.95) -> Scores:
    """Lowest entropy first, among the neurons above the threshold in that very language."""
    cut = values.flatten().sort().values[max(1, round(quantile * values.numel())) - 1]
    spread = entropy(values.sort(dim=-1).values).round(decimals=12)
    return torch.where(values > cut, -spread[..., None], NEVER).movedim(-1, 0).contiguous()


def _lap(evidence: Evidence) -> Scores:
    return evidence.recording.probabilities.movedim(-1, 0).contiguous()


def _regions(evidence: Evidence) -> Scores:
    if evidence.samples is None:
        raise NeuroglotError(
            "regions needs samples of a parallel corpus; leave it out for a corpus that is not parallel."
        )
    scores = contributions(evidence.samples)
    ordered = scores.sort(dim=0).values
    mean = ordered.mean(0)
    deviation = (ordered - mean).square().mean(0).sqrt()
    return ((scores - mean) / deviation).nan_to_num_(nan=NEVER, posinf=NEVER, neginf=NEVER)


def _experts(evidence: Evidence) -> Scores:
    """The neurons of the most frequently activated experts first; within an expert by index."""
    names = [name for name in evidence.recording.sums if name.startswith(EXPERTS)]  # the first share or number
    if evidence.labels is None or not names:
        raise NeuroglotError("experts needs a recording that counted experts, and their partition.")
    frequency = evidence.recording.mean(names[0]).movedim(-1, 0)  # languages, layers, experts
    return frequency.gather(2, evidence.labels.expand(len(frequency), -1, -1))


def _variation(evidence: Evidence) -> Scores:
    if evidence.rates is None:
        raise NeuroglotError("pv needs a model tuned on each language; make them with `neuroglot tune`.")
    spread, member = variation_entropy(evidence.rates)
    return torch.where(member, -spread, NEVER)


def _margin(evidence: Evidence) -> Scores:
    return margins(evidence.recording)


def _random(evidence: Evidence) -> Scores:
    """Each language draws by itself. Taking the first of a random order is drawing without replacement."""
    recording = evidence.recording
    rows = []
    for tag in recording.languages:
        order = torch.randperm(recording.layers * recording.neurons, generator=generator_of(tag, evidence.seed))
        rows.append(-order.argsort().double().view(recording.layers, recording.neurons))
    return torch.stack(rows)


RANKINGS: dict[str, Callable[[Evidence], Scores]] = {
    "margin": _margin,
    "lape": _lape,
    "lap": _lap,
    "lave": _lave,
    "pv": _variation,
    "regions": _regions,
    "experts": _experts,
    "random": _random,
}
"""How each method ranks."""
