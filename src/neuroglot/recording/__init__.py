"""One pass over the text, reduced to a value: `record` makes a `Recording`, `record_samples` makes `Samples`."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
