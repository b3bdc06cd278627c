"""Gradient times activation: neurons without which the loss of one language's text would change most."""

from neuroglot.artifacts.recording import Recording
from neuroglot.identify.importance import excess
from neuroglot.identify.registry import method
from neuroglot.identify.selection import Scores

__all__ = ["attribution"]


@method("attribution", title="gradient × activation", needs=("attribution",))
def attribution(recording: Recording) -> Scores:
    """The largest excess over the next language of |h · ∂ loss / ∂h|, the first-order change of the loss without it."""
    return excess(recording, "attribution", "attribution")
