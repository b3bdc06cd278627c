"""Which neurons are a language's: each method takes statistics and gives a `NeuronSet`. No model code, no text."""

from collections.abc import Callable

from neuroglot.identify.entropy import lape, lave
from neuroglot.identify.probability import lap
from neuroglot.identify.random import random
from neuroglot.identify.regions import contributions, key_regions
from neuroglot.neurons import NeuronSet

METHODS: dict[str, Callable[..., NeuronSet]] = {"lape": lape, "lap": lap, "lave": lave, "random": random}
"""The methods of a recording, by name; `key_regions` reads samples."""

__all__ = ["METHODS", "contributions", "key_regions", "lap", "lape", "lave", "random"]
