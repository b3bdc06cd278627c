"""Which neurons are a language's: each method takes statistics and gives a `NeuronSet`. No model code, no text."""

from collections.abc import Callable

from neuroglot.identify.entropy import lape, lave
from neuroglot.identify.margin import margin, margins
from neuroglot.identify.probability import lap
from neuroglot.identify.random import random
from neuroglot.identify.ranking import RANKINGS, Evidence, rank, take
from neuroglot.identify.regions import contributions, key_regions
from neuroglot.identify.variation import parameter_variation, variation_entropy, variation_rates, varied_parameters
from neuroglot.neurons import NeuronSet

METHODS: dict[str, Callable[..., NeuronSet]] = {
    "lape": lape,
    "lap": lap,
    "lave": lave,
    "margin": margin,
    "random": random,
}
"""The methods of a recording, by name; `key_regions` reads samples, `parameter_variation` checkpoints."""

__all__ = [
    "METHODS",
    "RANKINGS",
    "Evidence",
    "contributions",
    "key_regions",
    "lap",
    "lape",
    "lave",
    "margin",
    "margins",
    "parameter_variation",
    "random",
    "rank",
    "take",
    "variation_entropy",
    "variation_rates",
    "varied_parameters",
]
