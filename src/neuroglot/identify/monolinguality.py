"""Monolinguality ν: how much more active a neuron is in one language than in the others on average."""

from jaxtyping import Float64
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.identify.registry import method

__all__ = ["monolinguality"]


@method("monolinguality", title="monolinguality ν", needs=("activation",))
def monolinguality(recording: Recording) -> Float64[Tensor, "languages layers neurons"]:
    """The highest ν: the mean activation in the language less the mean of the other languages' mean activations.

    The metric of Deng et al. (2025, *Unveiling Language-Specific Features in Large Language Models via Sparse
    Autoencoders*), ν = μ − γ, of neurons in the place of an autoencoder's features. They take the highest of each
    layer; a budget here is of all layers together, so layers with larger activations come first.

    Raises:
        NeuroglotError: there is one language only, or `activation` was not recorded.
    """
    count = len(recording.languages)
    if count < 2:
        raise NeuroglotError(
            f"ν compares languages, and the recording has only {recording.languages[0]}; record at least two."
        )
    means = recording.mean("activation")
    others = (means.sum(-1, keepdim=True) - means) / (count - 1)
    return (means - others).movedim(-1, 0).contiguous()
