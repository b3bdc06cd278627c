"""From how much a neuron matters in each language to which neurons are a language's."""

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.identify.margin import highest_other
from neuroglot.identify.selection import Scores

__all__ = ["excess", "importance_shares"]


def importance_shares(recording: Recording, statistic: str) -> Float64[Tensor, "layers neurons languages"]:
    """A statistic as a share of its sum over all neurons in the language.

    So that a language on which the model has a higher loss, and larger gradients, does not own everything.
    """
    values = recording.mean(statistic)
    total = values.sum((0, 1), keepdim=True)
    return values / total.clamp_min(torch.finfo(torch.float64).tiny)


def excess(recording: Recording, statistic: str, method: str) -> Scores:
    """How much more of a language's whole a neuron holds than of that of the next language.

    Raises:
        NeuroglotError: there is one language only, or the statistic was not recorded.
    """
    if len(recording.languages) < 2:
        raise NeuroglotError(
            f"{method} compares languages, and the recording has only {recording.languages[0]}; record at least two."
        )
    shares = importance_shares(recording, statistic)
    return (shares - highest_other(shares)).movedim(-1, 0).contiguous()
