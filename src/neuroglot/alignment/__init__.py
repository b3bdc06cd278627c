"""How alike a model's activations are for one language, and for one meaning. Samples in, values out; no model code."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
