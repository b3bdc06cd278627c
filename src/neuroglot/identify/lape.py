"""Neurons by the entropy of their activity over languages: LAPE, and LAVE on mean values in place of probabilities."""

import warnings

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.widths import stated
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import NEVER, Scores
from neuroglot.stats import entropy
from neuroglot.storage.given import takes_numbers

__all__ = ["lape", "lave"]

ROWS_AT_ONCE = 1 << 18  # of (neurons, languages), so that a 70B model's tables take little memory beside themselves


@method("lape", title="LAPE", needs=("active",))
def _lape(recording: Recording) -> Scores:
    """Of the neurons with p > t in the language, the lowest entropy over languages of p, the share of active tokens."""
    return _by_entropy(recording.mean("active"), exists=recording.exists)


@default_choice("lape")
@takes_numbers
def lape(recording: Recording, *, top_fraction: float = 0.01, activity_quantile: float = 0.95) -> NeuronSet:
    """Language activation probability entropy (Tang et al. 2024, §2.2).

    A neuron's activation probabilities are normalised over languages; those with the lowest entropy are
    language-specific. With *t* the `activity_quantile` of all probabilities, only neurons that exceed *t* in some
    language are considered, and a chosen neuron belongs to every language in which it exceeds *t*.

    Args:
        recording: needs `active`.
        top_fraction: how many neurons to choose, as a share of all.
        activity_quantile: in (0, 1]; sets *t* to the `round(activity_quantile · n)`-th smallest of the n values.

    Returns:
        The neurons of each language. Of neurons with equal entropy, those of lower layer and index are taken first.

    Raises:
        NeuroglotError: there is one language only, or a setting is out of range.
    """
    return _lowest_entropy(recording, "active", top_fraction, activity_quantile, "lape")


@method("lave", title="LAVE", needs=("activation",))
def _lave(recording: Recording) -> Scores:
    """As LAPE, on mean activations in place of probabilities."""
    return _by_entropy(recording.mean("activation").clamp_min(0), exists=recording.exists)


@default_choice("lave")
@takes_numbers
def lave(recording: Recording, *, top_fraction: float = 0.01, activity_quantile: float = 0.95) -> NeuronSet:
    """Language activation value entropy (Tang et al. 2024, §3.1 c): LAPE on mean activations, negative ones as 0.

    Result and errors are those of `lape`.

    Args:
        recording: needs `activation`.
        top_fraction: how many neurons to choose, as a share of all.
        activity_quantile: in (0, 1]; sets *t* to the `round(activity_quantile · n)`-th smallest of the n values.
    """
    return _lowest_entropy(recording, "activation", top_fraction, activity_quantile, "lave")


def _lowest(values: Float64[Tensor, "neurons languages"], count: int) -> Int64[Tensor, " chosen"]:
    """The rows with the lowest entropy, `count` of them, lowest first; equal ones by index.

    A sum depends on its order in the last bits, and permuting the languages must not change which rows are chosen. So
    the contenders' entropies are summed again over sorted values, which is slower and has one order only.
    """
    if len(values) == 0:
        return torch.empty(0, dtype=torch.int64)
    rough = torch.cat([entropy(some) for some in values.split(ROWS_AT_ONCE)])
    cut = _smallest(rough, min(count, len(rough))) + 1e-9  # far above rounding, far below what matters
    contenders = (rough <= cut).nonzero().flatten()
    exact = torch.cat([_exact_entropy(values[some]) for some in contenders.split(ROWS_AT_ONCE)])
    return contenders[exact.sort(stable=True).indices[:count]]


def _exact_entropy(values: Float64[Tensor, "*neurons languages"]) -> Float64[Tensor, "*neurons"]:
    """Entropy, whatever the order of the languages.

    Rounded, since 3/4 : 1 and 1/2 : 2/3 are one distribution, and must be a tie, whatever their last bits say.
    """
    return entropy(values.sort(dim=-1).values).round(decimals=12)


def _lowest_entropy(
    recording: Recording, statistic: str, top_fraction: float, activity_quantile: float, method: str
) -> NeuronSet:
    languages = recording.languages
    if len(languages) < 2:
        raise NeuroglotError(
            f"{method} compares languages, and the recording has only {languages[0]}; record at least two."
        )
    if not 0 < top_fraction <= 1 or not 0 < activity_quantile <= 1:
        raise NeuroglotError("top_fraction and activity_quantile must be above 0 and at most 1.")
    layers, width = recording.layers, recording.neurons
    places = recording.exists.flatten().nonzero().flatten()  # of the neurons in a table of the widest layer's width
    values = recording.mean(statistic).clamp_min_(0).reshape(layers * width, len(languages))
    values = values if recording.uneven is None else values[places]
    threshold = _threshold(values, activity_quantile)
    above = values > threshold
    candidates = above.any(1).nonzero().flatten()
    wanted = round(top_fraction * len(places))
    if len(candidates) < wanted:
        warnings.warn(
            f"{method} found {len(candidates)} {recording.units} where {wanted} were asked for: no other exceeds "
            f"{threshold:.3g} in any language.",
            NeuroglotWarning,
            stacklevel=3,
        )
    chosen = candidates[_lowest(values[candidates], wanted)]
    mask = torch.zeros(len(languages), layers * width, dtype=torch.bool)
    mask[:, places[chosen]] = above[chosen].T
    return NeuronSet(
        mask.view(len(languages), layers, width),
        languages,
        {
            "method": method,
            "top_fraction": top_fraction,
            "activity_quantile": activity_quantile,
            "threshold": float(threshold),
            **stated(recording.widths),
            **origin(recording),
        },
    )


def _smallest(values: Tensor, rank: int) -> float:
    """The `rank`-th smallest of all values, from 1."""
    flat = values.numpy().ravel().copy()
    flat.partition(max(rank, 1) - 1)
    return float(flat[max(rank, 1) - 1])


def _threshold(values: Float64[Tensor, "*neurons languages"], quantile: float) -> float:
    """t: what a neuron must exceed in a language to be that language's."""
    return _smallest(values, round(quantile * values.numel()))


def _by_entropy(
    values: Float64[Tensor, "layers neurons languages"],
    quantile: float = 0.95,
    exists: Bool[Tensor, "layers neurons"] | None = None,
) -> Scores:
    """Lowest entropy first, among the neurons above the threshold in that very language."""
    above = values > _threshold(values if exists is None or bool(exists.all()) else values[exists], quantile)
    return torch.where(above, -_exact_entropy(values)[..., None], NEVER).movedim(-1, 0).contiguous()
