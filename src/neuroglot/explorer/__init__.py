"""A run in the browser: an atlas of its neurons, a lab to press buttons in, matrices, alignment, pruning."""

from neuroglot.explorer.app import build, explore

__all__ = ["build", "explore"]
