"""Which neurons are a language's: each method takes statistics and gives a `NeuronSet`. No model code, no text."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
