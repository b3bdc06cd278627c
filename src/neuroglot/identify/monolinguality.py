"""Monolinguality ν: how much of a neuron's activity is in one language."""

from jaxtyping import Float64
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.identify.registry import method
from neuroglot.identify.selection import NEVER, Scores

__all__ = ["monolinguality"]


def monolinguality(recording: Recording) -> Float64[Tensor, "layers neurons"]:
    """ν of every neuron: (K · max_k q_k − 1) / (K − 1), with q its activation probabilities as shares of their sum.

    0 where all languages have it alike, 1 where one has it alone, and 0 where it is active nowhere.

    Raises:
        NeuroglotError: there is one language only.
    """
    count = len(recording.languages)
    if count < 2:
        raise NeuroglotError(
            f"ν compares languages, and the recording has only {recording.languages[0]}; record at least two."
        )
    p = recording.mean("active")
    total = p.sum(-1)
    share = p.amax(-1) / total.clamp_min(1e-300)
    return ((count * share - 1) / (count - 1)).where(total > 0, 0.0)


@method("monolinguality", title="monolinguality ν", needs=("active",))
def _monolinguality(recording: Recording) -> Scores:
    """The highest ν among the neurons that are most often active in the language; of equals the more active."""
    p = recording.mean("active")
    own = p == p.amax(-1, keepdim=True)
    scores = monolinguality(recording)[..., None] + 1e-6 * p  # far below what ν tells apart
    return scores.where(own & (p > 0), NEVER).movedim(-1, 0).contiguous()
