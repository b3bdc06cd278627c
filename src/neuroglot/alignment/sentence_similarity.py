"""Sentence-embedding similarity and dominance (Tang et al. 2024, §3.3.2-3.3.3), on the residual stream."""

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from neuroglot.alignment.similarity import Pairs, check_comparable, normalised, pairs_of
from neuroglot.artifacts.samples import Samples
from neuroglot.errors import NeuroglotError

__all__ = ["dominance", "ses", "state_similarity"]


def ses(samples: Samples) -> pd.Series:
    """Mean sentence-embedding similarity of each layer (Tang et al. 2024, §3.3.2).

    The mean cosine, over aligned sentences and pairs of languages, of the mean residual stream that leaves the layer.

    Returns:
        A value a layer, from 1 as the papers count them.

    Raises:
        NeuroglotError: one language or one sample, or the samples have no states.
    """
    states = _states(samples)
    once = torch.ones(1, len(samples), dtype=torch.float64)
    values = [float(state_similarity(pairs_of(normalised(layer)), once)[0]) for layer in states]
    return pd.Series(values, index=_layers(samples), name="ses")


def dominance(samples: Samples) -> pd.DataFrame:
    """How well other languages align to each one once they are moved to where it is (Tang et al. 2024, §3.3.3).

    With v a language's mean state, every state h of language k becomes h − v_k + v_c; dominance of the target c is the
    mean cosine between the moved states of the other languages and the states of c, over aligned sentences.

    Returns:
        A row a layer, from 1; a column a target language.

    Raises:
        NeuroglotError: one language or one sample, or the samples have no states.
    """
    rows = []
    for states in _states(samples):
        means = states.mean(1, keepdim=True)
        centred = states - means
        row = []
        for target, of_target in enumerate(states):
            moved = normalised(centred + means[target])
            cosines = (moved * normalised(of_target)).sum(-1).mean(1)
            others = torch.arange(len(states)) != target
            row.append(float(cosines[others].mean()))
        rows.append(row)
    return pd.DataFrame(rows, index=_layers(samples), columns=list(samples.languages))


def state_similarity(pairs: Pairs, weights: Float64[Tensor, "draws samples"]) -> Float64[Tensor, " draws"]:
    """The weighted mean similarity of one meaning in two languages."""
    _, between = pairs
    return (weights * between.diagonal()).sum(1) / weights.sum(1)


def _states(samples: Samples) -> "list[Float[Tensor, 'languages samples width']]":
    check_comparable(samples)
    if samples.states is None:
        raise NeuroglotError("These samples have no residual-stream states; record them with states=True.")
    return [samples.states[:, :, layer].to(torch.float64) for layer in range(samples.layers)]


def _layers(samples: Samples) -> pd.RangeIndex:
    return pd.RangeIndex(1, samples.layers + 1, name="layer")
