"""Which neurons are a language's: each method takes statistics and gives a `NeuronSet`. No model code, no text."""

from collections.abc import Callable

from neuroglot.identify.entropy import lape, lave
from neuroglot.identify.probability import lap
from neuroglot.identify.random import random
from neuroglot.neurons import NeuronSet

METHODS: dict[str, Callable[..., NeuronSet]] = {"lape": lape, "lap": lap, "lave": lave, "random": random}
"""The methods by name, each a function of a recording."""

__all__ = ["METHODS", "lap", "lape", "lave", "random"]
