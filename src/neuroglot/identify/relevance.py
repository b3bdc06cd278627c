"""Layer-wise relevance: neurons that make one language's next tokens likely, by relevance propagation."""

from neuroglot.artifacts.recording import Recording
from neuroglot.identify.importance import excess
from neuroglot.identify.registry import method
from neuroglot.identify.selection import Scores

__all__ = ["relevance"]


@method("relevance", title="LRP", needs=("relevance",))
def relevance(recording: Recording) -> Scores:
    """The largest excess over the next language of |R|, the relevance for the logits of the tokens that come next."""
    return excess(recording, "relevance", "relevance")
