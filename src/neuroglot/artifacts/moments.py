"""First and second moments of one layer's hidden units: what a re-fit of its down-projection needs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.errors import NeuroglotError

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    """Means over the tokens of one language's text.

    Attributes:
        mean: mean of `hidden`, the input of the down-projection.
        second: mean of its outer product with itself; symmetric.
        tokens: how many tokens were counted.
    """

    mean: Float[Tensor, " neurons"]
    second: Float[Tensor, "neurons neurons"]
    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise NeuroglotError("Moments of no tokens say nothing; give text in the language.")
        if not bool(torch.isfinite(self.second).all()):
            raise NeuroglotError(
                "The hidden units of this text have values that are not numbers (NaN or infinite); load the model in "
                "float32 or bfloat16."
            )

    @property
    def covariance(self) -> Float[Tensor, "neurons neurons"]:
        """Of `hidden` around its mean."""
        return self.second - torch.outer(self.mean, self.mean)
