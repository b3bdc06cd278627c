"""A run in the browser: an atlas of its neurons, a lab to press buttons in, matrices, alignment, pruning."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
