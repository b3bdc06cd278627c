"""The names of what steering does: to neurons, to the residual stream, or to a router. Nothing is imported for them."""

from typing import Literal

__all__ = ["DIRECTIONS", "METHODS", "ROUTER", "SAMPLED", "Direction", "Method", "Routed"]

Method = Literal["raise", "replace", "add", "difference", "scale"]
METHODS: tuple[Method, ...] = ("raise", "replace", "add", "difference", "scale")
"""What is done to neurons."""

Direction = Literal["diffmean", "probe", "lda", "sparse"]
DIRECTIONS: tuple[Direction, ...] = ("diffmean", "probe", "lda", "sparse")
"""What is done to the residual stream."""
SAMPLED: tuple[Direction, ...] = ("probe", "lda")
"""Those that are found in samples with their states, and not in a recording alone."""

Routed = Literal["router"]
ROUTER: Routed = "router"
"""What is steered is the choice of a native mixture's router."""
