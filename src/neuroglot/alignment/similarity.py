"""Cosine similarity of samples: the whole map, or the two small tables that every score is made of.

Scores never need the map. With *a* a unit vector of language *k* and meaning *i*, all that they read is

    within[i, j]  = mean over languages k      of a(k, i) · a(k, j)
    between[i, j] = mean over languages k ≠ l  of a(k, i) · a(l, j)

and the second follows from the sum over all pairs of languages, which is one product of the vectors' sums. So the work
is K n² products a neuron and not K² n², and what is kept is n × n, whatever the model's size.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.artifacts.samples import Samples
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import takes_numbers

__all__ = ["Pairs", "layer_pairs", "normalised", "pairs_of", "similarity_map", "whole_pairs"]

Pairs = tuple[Float[Tensor, "samples samples"], Float[Tensor, "samples samples"]]
"""`within` and `between`: mean similarity of meanings i and j in one language, and in two different ones."""


@takes_numbers
def similarity_map(samples: Samples, layer: int | None = None) -> Float[Tensor, "rows rows"]:
    """Cosine similarity of every pair of samples (Zeng et al. 2025, eq. 7), K·n × K·n.

    Row `k·n + i` is meaning *i* in language *k*, so that each language is a block and equal meanings lie on the
    diagonals of the blocks. Read a layer at a time; products have the vectors' precision and are added in float64.

    Args:
        samples: of one or more languages.
        layer: of this layer only (from 0), its slices normalised by themselves; by default of the whole vectors.

    Raises:
        NeuroglotError: there is no such layer.
    """
    rows = len(samples.languages) * len(samples)
    total = torch.zeros(rows, rows, dtype=torch.float64)
    for index in [layer] if layer is not None else range(samples.layers):
        values = samples.layer(index).reshape(rows, -1)
        total += values @ values.T
    if layer is not None:
        norms = total.diagonal().sqrt()
        norms = norms.where(norms > 0, 1)
        total /= norms[:, None] * norms[None, :]
    return total.clamp_(-1, 1)


def whole_pairs(samples: Samples) -> Pairs:
    """The tables of the whole vectors."""
    check_comparable(samples)
    within, between = zip(*(pairs_of(samples.layer(layer)) for layer in range(samples.layers)), strict=True)
    return torch.stack(within).sum(0), torch.stack(between).sum(0)


def layer_pairs(samples: Samples) -> Iterator[Pairs]:
    """The tables of each layer, its slices normalised by themselves."""
    check_comparable(samples)
    for layer in range(samples.layers):
        yield pairs_of(normalised(samples.layer(layer)))


def pairs_of(vectors: Float[Tensor, "languages samples width"]) -> Pairs:
    """The tables of any vectors, float64; the products have the vectors' precision."""
    languages = len(vectors)
    same = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for of_language in vectors:
        same += of_language @ of_language.T
    total = vectors.sum(0)
    every = (total @ total.T).to(torch.float64)
    return same / languages, (every - same) / (languages * (languages - 1))


def normalised(vectors: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
    """Vectors of unit norm; a zero vector stays zero, and is like nothing."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True, dtype=torch.float64).to(vectors.dtype)
    return vectors / norms.where(norms > 0, 1)


def check_comparable(samples: Samples) -> None:
    """Refuse samples that have nothing to compare.

    Raises:
        NeuroglotError: there is one language or one sample.
    """
    if len(samples.languages) < 2:
        raise NeuroglotError(
            f"Alignment compares languages, and these samples are in {samples.languages[0]} only; give at least two."
        )
    if len(samples) < 2:
        raise NeuroglotError("Alignment compares meanings, and there is one sample only; give at least two.")
