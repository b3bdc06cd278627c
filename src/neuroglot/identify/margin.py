"""Neurons that write for one language and hardly for the next: our own method.

LAPE looks at the shape of a neuron's probabilities over all languages: it says nothing of what the neuron does when it
is active, treats a share of 500 tokens and one of 500,000 alike, and lets a neuron belong to several languages. What
switching a neuron off spares is decided by the language that would miss it most after its own. So a language is
compared with that one only; in what the neuron consistently writes; and only where it is active more often beyond the
doubt that the text leaves.
"""

import math
import warnings

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import NEVER, select_top
from neuroglot.stats import wilson
from neuroglot.storage.given import takes_numbers

__all__ = ["highest_other", "margin", "margins"]

LITTLE = 0.02  # of an even share of the layer: what is less than this is as good as nothing


@method("margin", needs=("active", "hidden"))
def margins(recording: Recording) -> Float64[Tensor, "languages layers neurons"]:
    """The largest margin over the next language: the logarithm of how many times more a neuron writes in its own.

    With w = |mean hidden| as a share of its layer's sum in the language, and ε a fiftieth of an even share,
    margin = log((w + ε) / (highest w among the other languages + ε)). The mean is of signed values:
    what is written one way and the other by turns, and on average says nothing, does not count.

    It holds only where the neuron is active significantly more often in the language than in any other: where the lower
    end of the 95 % interval of its activation probability (Wilson's, from the number of tokens) is above the highest
    upper end among the others, d > 0. Elsewhere the neuron comes after all of these, in the order of d, so that a
    larger budget goes on with the least doubtful. Tokens of a text are not independent, so the interval is narrower
    than it should be; it ranks, it does not test.

    Raises:
        NeuroglotError: there is one language only, or a statistic was not recorded.
    """
    if len(recording.languages) < 2:
        raise NeuroglotError(
            f"margin compares languages, and the recording has only {recording.languages[0]}; record at least two."
        )
    low, high = wilson(recording.active, recording.reached if recording.conditional else recording.tokens)
    apart = low - highest_other(high)
    written = recording.mean("hidden").abs()
    share = written / written.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    little = LITTLE / torch.tensor(recording.widths, dtype=torch.float64)[:, None, None]  # an even share of its layer
    ratio = ((share + little) / (highest_other(share) + little)).log()
    last = -math.log1p(recording.neurons / LITTLE)  # no ratio is below this
    return torch.where(apart > 0, ratio, last + apart).movedim(-1, 0).contiguous()


@default_choice("margin")
@takes_numbers
def margin(recording: Recording, *, top_fraction: float = 0.01) -> NeuronSet:
    """For each language the neurons with the largest margin over the next language (Neuroglot's own; see `margins`).

    A neuron belongs to one language at most: where it is active more often than in every other by more than chance
    allows.

    Args:
        recording: needs `active` and `hidden`.
        top_fraction: how many neurons to choose for each language at most, as a share of all.

    Returns:
        The neurons of each language. Of neurons with equal margins, those of lower layer and index are taken first.

    Raises:
        NeuroglotError: there is one language only, `top_fraction` is out of range, or a statistic was not recorded.
    """
    if not 0 < top_fraction <= 1:
        raise NeuroglotError(f"top_fraction must be above 0 and at most 1, not {top_fraction}.")
    scores = margins(recording)
    wanted = round(top_fraction * sum(recording.widths))
    neurons = select_top(
        torch.where(scores > 0, scores, NEVER),
        recording.languages,
        top_fraction,
        {
            "method": "margin",
            "top_fraction": top_fraction,
            **origin(recording),
        },
        recording.widths,
    )
    short = {tag: count for tag, count in neurons.sizes().items() if count < wanted}
    if short:
        said = ", ".join(f"{count} in {tag}" for tag, count in short.items())
        warnings.warn(
            f"margin found fewer than the {wanted} {recording.units} asked for: {said}. No other is more active there "
            "than elsewhere by more than chance allows; record more text, or ask for fewer.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return neurons


def highest_other(values: Float64[Tensor, "*any languages"]) -> Float64[Tensor, "*any languages"]:
    """For each language the highest value among the others."""
    top = values.topk(2, dim=-1)
    highest = torch.arange(values.shape[-1]) == top.indices[..., :1]
    return torch.where(highest, top.values[..., 1:], top.values[..., :1])
