"""Neurons that are active more often in one language than in any other, and that write much: the activation margin.

LAPE looks at the shape of a neuron's probabilities over all languages. It says nothing of how much the neuron does when
it is active, treats a share of 500 tokens and one of 500,000 alike, and lets a neuron belong to several languages. What
switching a neuron off spares is decided by the language that would miss it most after its own; so the margin is taken
from that one, with the doubt that the text leaves taken off, and weighted by how much of its layer's writing is the
neuron's.
"""

import warnings

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.neurons import NeuronSet
from neuroglot.recording import Recording

__all__ = ["margin", "margins"]

Z = 1.959964  # of a two-sided 95 % interval


def margin(recording: Recording, *, top_fraction: float = 0.01) -> NeuronSet:
    """For each language the neurons with the largest activation margin (Neuroglot's own method; see `margins`).

    A neuron belongs to one language at most: only where it is active more often than in every other beyond doubt.

    Args:
        recording: needs `active` and `written`.
        top_fraction: how many neurons to choose for each language at most, as a share of all.

    Returns:
        The neurons of each language. Of neurons with equal margins, those of lower layer and index are taken first.

    Raises:
        NeuroglotError: there is one language only, `top_fraction` is out of range, or a statistic was not recorded.
    """
    if not 0 < top_fraction <= 1:
        raise NeuroglotError(f"top_fraction must be above 0 and at most 1, not {top_fraction}.")
    scores = margins(recording).flatten(1)
    wanted = round(top_fraction * scores.shape[1])
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :wanted]
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True) & (scores > 0)
    neurons = NeuronSet(
        mask.view(len(scores), recording.layers, recording.neurons),
        recording.languages,
        {
            "method": "margin",
            "top_fraction": top_fraction,
            "fingerprint": recording.provenance.fingerprint if recording.provenance else None,
        },
    )
    short = {tag: count for tag, count in neurons.sizes().items() if count < wanted}
    if short:
        said = ", ".join(f"{count} in {tag}" for tag, count in short.items())
        warnings.warn(
            f"margin found fewer than the {wanted} neurons asked for: {said}. No other is active more often there than "
            "elsewhere beyond doubt; record more text, or ask for fewer.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return neurons


def margins(recording: Recording) -> Float64[Tensor, "languages layers neurons"]:
    """The activation margin of each neuron for each language.

    d = the lower end of the 95 % interval of the neuron's activation probability in the language (Wilson's, from the
    number of tokens), less the highest upper end among the other languages. Where d > 0 it is multiplied by the
    neuron's share of its layer's writing in the language, w = written / Σ written over the layer, since it is only then
    that switching the neuron off takes something from this language alone. Where d ≤ 0 it is left as it is, so that a
    budget larger than the neurons beyond doubt goes on with the least doubtful.

    Tokens of a text are not independent, so the interval is narrower than it should be; it ranks, it does not test.

    Raises:
        NeuroglotError: there is one language only, or a statistic was not recorded.
    """
    if len(recording.languages) < 2:
        raise NeuroglotError(
            f"margin compares languages, and the recording has only {recording.languages[0]}; record at least two."
        )
    if "written" not in recording.sums:
        raise NeuroglotError(
            "margin needs the length of what each neuron writes; record again with --written, or with written among "
            "the statistics."
        )
    low, high = _wilson(recording.probabilities, recording.tokens.double())
    top = high.topk(2, dim=-1)
    highest = torch.arange(high.shape[-1]) == top.indices[..., :1]
    apart = low - torch.where(highest, top.values[..., 1:], top.values[..., :1])
    written = recording.mean("written")
    share = written / written.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(apart > 0, apart * share, apart).movedim(-1, 0).contiguous()


def _wilson(p: Float64[Tensor, "*any languages"], n: Float64[Tensor, " languages"]) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a share p of n."""
    scale = 1 + Z * Z / n
    centre = (p + Z * Z / (2 * n)) / scale
    half = Z / scale * (p * (1 - p) / n + Z * Z / (4 * n * n)).sqrt()
    return centre - half, centre + half
