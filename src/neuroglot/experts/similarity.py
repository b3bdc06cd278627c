"""Activation patterns of languages beside one another, and beside the families the languages come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.stats import Matrix
from neuroglot.storage.given import takes_numbers

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Similarity", "compare"]


@dataclass(frozen=True, eq=False)
class Similarity:
    """Three measures of every pair of activation matrices (Liu et al. 2024, §4.2 and Figure 2).

    Attributes:
        euclidean: Frobenius distance.
        kl: KL divergence (nats) of the row language from the column language, summed over layers; not symmetric.
        pearson: correlation of a layer's experts, mean over layers.
        smoothing: what was added to every frequency for `kl`.
    """

    euclidean: Matrix
    kl: Matrix
    pearson: Matrix
    smoothing: float

    def distances(self) -> dict[str, Matrix]:
        """Each measure as a symmetric distance: `kl` as the mean of both directions, `pearson` as 1 - r."""
        return {"euclidean": self.euclidean, "kl": (self.kl + self.kl.T) / 2, "pearson": 1 - self.pearson}

    def frame(self, languages: Sequence[str]) -> "pd.DataFrame":
        """A row an ordered pair: language, other, euclidean, kl, pearson.

        Args:
            languages: of the matrices, in their order.
        """
        import pandas as pd

        index = pd.MultiIndex.from_product([list(languages), list(languages)], names=["language", "other"])
        columns = {name: getattr(self, name).flatten().numpy() for name in ("euclidean", "kl", "pearson")}
        return pd.DataFrame(columns, index=index).reset_index()


@takes_numbers
def compare(
    frequencies: Float64[Tensor, "languages layers experts"] | Float64[np.ndarray, "languages layers experts"],
    *,
    smoothing: float = 1e-4,
) -> Similarity:
    """Compare the activation matrices of every pair of languages.

    For KL each layer's frequencies, with `smoothing` added to every one, are divided by their sum: a frequency of
    zero would make the divergence infinite. In a layer whose frequencies are all equal there is no correlation; it is
    left out of a pair's mean.

    Raises:
        NeuroglotError: `smoothing` is not above 0.
    """
    if smoothing <= 0:
        raise NeuroglotError(f"smoothing must be above 0, not {smoothing:g}: a frequency of 0 has no logarithm.")
    values = torch.as_tensor(frequencies).to(torch.float64)
    if values.ndim != 3:
        raise NeuroglotError(f"Frequencies are (languages, layers, experts), not of shape {tuple(values.shape)}.")
    euclidean = torch.stack([(values - one).square().sum((1, 2)).sqrt() for one in values])
    shares = (values + smoothing) / (values + smoothing).sum(2, keepdim=True)
    kl = torch.xlogy(shares, shares).sum((1, 2))[:, None] - torch.einsum("ale,ble->ab", shares, shares.log())
    apart = values - values.mean(2, keepdim=True)
    lengths = apart.square().sum(2)
    products = torch.einsum("ale,ble->abl", apart, apart)
    pearson = (products / (lengths[:, None] * lengths[None]).sqrt()).nanmean(2)
    return Similarity(euclidean, kl.clamp_min(0), pearson, smoothing)
