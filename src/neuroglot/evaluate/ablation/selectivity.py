"""What a matrix of effects says in a few numbers: how selective, for how many languages, and along which relations.

Effects are differences of the mean negative log-likelihood (nats a token), the logarithm of the ratio of perplexities:
a set that multiplies perplexity by 1,000 for one language and by 2 for another has not done 1,000 times as much to the
first as a mean of relative changes would have it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.errors import NeuroglotError
from neuroglot.stats import spearman

__all__ = [
    "coverage",
    "diagonal_dominant",
    "jaccard",
    "off_target_effect",
    "on_target_effect",
    "relation_correlation",
    "selectivity",
]

Effects = Float64[Tensor, "*draws languages languages"]  # row: whose neurons are off; column: the language measured


def on_target_effect(effects: Effects) -> Float64[Tensor, "*draws"]:
    """The mean effect of a language's neurons on that language."""
    return effects.diagonal(dim1=-2, dim2=-1).mean(-1)


def off_target_effect(effects: Effects) -> Float64[Tensor, "*draws"]:
    """The mean effect of a language's neurons on the other languages.

    Raises:
        NeuroglotError: there is one language only.
    """
    size = effects.shape[-1]
    if size < 2:
        raise NeuroglotError("Selectivity compares a language with the others, and there is one only.")
    return (effects.sum((-2, -1)) - effects.diagonal(dim1=-2, dim2=-1).sum(-1)) / (size * (size - 1))


def selectivity(effects: Effects) -> Float64[Tensor, "*draws"]:
    """The mean effect on target over the mean effect off target: 1 is as random neurons do.

    A ratio of means over all languages, not a mean of ratios: one language whose neurons do nothing to the others would
    decide the latter. Infinite where nothing is harmed off target on average, NaN where nothing is at all.
    """
    own, others = on_target_effect(effects), off_target_effect(effects)
    ratio = own / others.clamp_min(0)
    return torch.where((own > 0) | (others > 0), ratio, torch.nan)


def diagonal_dominant(effects: Effects) -> Bool[Tensor, "*draws languages"]:
    """For each language, whether its neurons harm it more than any other language."""
    own = effects.diagonal(dim1=-2, dim2=-1)
    apart = effects.masked_fill(torch.eye(effects.shape[-1], dtype=torch.bool), -torch.inf)
    return own > apart.amax(-1)


def coverage(effects: Effects) -> Float64[Tensor, "*draws"]:
    """How many languages are diagonal-dominant, as a share of all."""
    return diagonal_dominant(effects).double().mean(-1)


def relation_correlation(effects: Float64[Tensor, "languages languages"], distance: Tensor) -> float:
    """Spearman's rank correlation between the effect on other languages and their nearness (−distance), over pairs.

    High where a language's neurons harm its relatives more than strangers. NaN where all distances, or all effects, are
    equal.

    Args:
        effects: by whose neurons are off, and language measured.
        distance: (K, K) between languages, such as `experts.relatedness`.
    """
    off = ~torch.eye(len(effects), dtype=torch.bool)
    return spearman(effects[off], -distance[off])


def jaccard(sets: Sequence[NeuronSet]) -> float:
    """How alike sets of the same languages are: the Jaccard index of a language's sets, mean over languages and pairs.

    Languages for which both of a pair are empty are left out; NaN if nothing is left, or there is one set only.
    """
    found = []
    for i, one in enumerate(sets):
        for other in sets[i + 1 :]:
            other = other.select(one.languages)
            both = (one.mask & other.mask).sum((1, 2)).double()
            either = (one.mask | other.mask).sum((1, 2)).double()
            found.append(both / either)
    return float(torch.cat(found).nanmean()) if found else float("nan")
