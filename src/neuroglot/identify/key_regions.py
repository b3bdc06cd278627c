"""Key linguistic regions: neurons that make samples of one language alike (Zeng et al. 2025, §3.3)."""

import math
import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.samples import Samples
from neuroglot.artifacts.widths import stated
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import NEVER, Evidence, Scores
from neuroglot.storage.given import takes_numbers

__all__ = ["contributions", "key_regions", "region_sizes"]

NEURONS_AT_ONCE = 4096


@takes_numbers
def key_regions(samples: Samples, *, threshold: float = 2.0) -> NeuronSet:
    """Each language's key linguistic region (Zeng et al. 2025, §3.3).

    A neuron's contribution to a language is its share of the similarity between that language's samples; the neuron
    is in the region of each language whose contribution has a z-score above `threshold` among all languages
    (population standard deviation). A neuron that contributes the same to all of them is in none.

    Args:
        samples: the vectors, read once, one after the other.
        threshold: in standard deviations. With K languages no z-score exceeds √(K−1), which only a neuron of one
            single language reaches.

    Raises:
        NeuroglotError: one language or one sample, or no z-score can exceed `threshold`.
    """
    check_threshold(samples, threshold)
    mask = _regions(contributions(samples), threshold)
    regions = NeuronSet(
        mask,
        samples.languages,
        {
            "method": "regions",
            "threshold": threshold,
            "samples": len(samples),
            **stated(samples.widths),
            **origin(samples),
        },
    )
    empty = [tag for tag, count in regions.sizes().items() if count == 0]
    if empty:
        warnings.warn(
            f"No neuron has a z-score above {threshold} in {', '.join(empty)}; its region is empty.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return regions


def contributions(samples: Samples) -> Float64[Tensor, "languages layers neurons"]:
    """C[k, i, j] = Σ a·a' over the pairs of language k's samples, a a neuron's value (Zeng et al. 2025, eq. 11).

    In closed form, ((Σ a)² − Σ a²) / 2: two sums over the samples, in float64, never the n² pairs.
    """
    languages, _, width = samples.vectors.shape
    result = np.empty((languages, width))
    for row, vectors in zip(result, samples.vectors.numpy(), strict=True):
        # NumPy, and a vector at a time in the order of the disk: the work is to read memory once, which one core does,
        # and a team of threads that meets after every vector would wait more than it adds.
        total, squares = np.zeros(width), np.zeros(width)
        for vector in vectors:
            values = vector.astype(np.float64)
            total += values
            values *= values
            squares += values
        np.subtract(total * total, squares, out=row)
    return torch.from_numpy(result).div_(2).view(languages, samples.layers, -1)


def region_sizes(
    samples: Samples, threshold: float, weights: Float64[Tensor, "draws samples"]
) -> Int64[Tensor, "draws languages layers"]:
    """The sizes of the regions when meaning i counts `weights[draw, i]` times, by draw, language and layer.

    A pair of one meaning with itself is not counted: C = ((Σ w a)² − Σ (w a)²) / 2.
    """
    check_threshold(samples, threshold)
    languages = len(samples.languages)
    sizes = torch.zeros(len(weights), languages, samples.layers, dtype=torch.int64)
    squared = weights.square()
    for layer in range(samples.layers):
        for values in samples.layer(layer).split(NEURONS_AT_ONCE, dim=2):
            values = values.to(torch.float64)
            scores = (weights @ values).square_() - squared @ values.square()  # languages, draws, neurons
            sizes[:, :, layer] += _regions(scores, threshold).sum(2).T
    return sizes


def check_threshold(samples: Samples, threshold: float) -> None:
    """Refuse what no z-score can exceed.

    Raises:
        NeuroglotError: one language, one sample, or a threshold of √(K−1) or more.
    """
    languages = len(samples.languages)
    if languages < 2:
        raise NeuroglotError(
            f"Regions compare languages, and these samples are in {samples.languages[0]} only; give at least two."
        )
    if len(samples) < 2:
        raise NeuroglotError("A contribution is a sum over pairs of samples, and there is one only; give at least two.")
    if not math.isfinite(threshold):
        raise NeuroglotError(f"threshold must be a finite number of standard deviations, not {threshold}.")
    limit = math.sqrt(languages - 1)
    if not threshold < limit:
        needed = math.floor(threshold**2 + 1) + 1
        raise NeuroglotError(
            f"With {languages} languages no z-score exceeds √{languages - 1} = {limit:.2f}, so a threshold of "
            f"{threshold:g} selects nothing; lower it, or give at least {needed} languages."
        )


def _regions(scores: Float[Tensor, "languages *rest"], threshold: float) -> Bool[Tensor, "languages *rest"]:
    """z-score over languages above the threshold; where all are equal, there is none."""
    above, deviation = _centred(scores)
    return (above > threshold * deviation) & (scores.amin(0) < scores.amax(0))


def _centred(scores: Float[Tensor, "languages *rest"]) -> tuple[Tensor, Tensor]:
    """What a z-score divides: scores less their mean over languages, and the population standard deviation."""
    ordered = scores.sort(dim=0).values  # a sum depends on its order, and that of languages must not decide
    mean = ordered.mean(0)
    return scores - mean, (ordered - mean).square_().mean(0).sqrt_()


@method("regions", title="key-region", needs=("samples",))
def _scores(evidence: Evidence) -> Scores:
    """The highest z-score, over languages, of the contribution to the similarity of the language's samples."""
    assert evidence.samples is not None
    above, deviation = _centred(contributions(evidence.samples))
    return (above / deviation).nan_to_num_(nan=NEVER, posinf=NEVER, neginf=NEVER)


@default_choice("regions")
def _choice(evidence: Evidence, *, threshold: float = 2.0) -> NeuronSet:
    """See `key_regions`.

    Args:
        evidence: needs the samples.
        threshold: the z-score over languages that a neuron must exceed.
    """
    assert evidence.samples is not None
    return key_regions(evidence.samples, threshold=threshold)
