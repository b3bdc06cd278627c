"""First and second moments of what a layer's last projection reads: what a re-fit of it needs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.errors import NeuroglotError

__all__ = ["Moments", "Sketch"]


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
        _check(self.tokens, self.second)

    @property
    def squares(self) -> Float[Tensor, " neurons"]:
        """Mean square of each unit."""
        return self.second.diagonal()

    def energy(self, weight: Float[Tensor, "width neurons"]) -> float:
        """Mean square of what a projection makes of the units, summed over its width."""
        weight = weight.double()
        return float(((weight @ self.second.to(weight)) * weight).sum())

    @property
    def covariance(self) -> Float[Tensor, "neurons neurons"]:
        """Of `hidden` around its mean."""
        return self.second - torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Sketch:
    """The same of a wide layer, whose second moments have no room: its tokens, added up with random signs in few rows.

    Its `rowsᵀ rows` is the second moments on average, and exactly where there are as many rows as tokens (a count
    sketch: Charikar et al. 2002; for least squares: Clarkson and Woodruff 2013).

    Attributes:
        mean: mean of what is read.
        squares: its mean square.
        rows: the sketch of the tokens, divided by the root of their number.
        ones: the same sketch of a 1 a token.
        tokens: how many were counted.
    """

    mean: Float[Tensor, " neurons"]
    squares: Float[Tensor, " neurons"]
    rows: Float[Tensor, "rows neurons"]
    ones: Float[Tensor, " rows"]
    tokens: int

    def __post_init__(self) -> None:
        _check(self.tokens, self.squares)

    @property
    def second(self) -> Float[Tensor, "neurons neurons"]:
        """The second moments that it stands for."""
        return self.rows.T @ self.rows

    @property
    def centred(self) -> Float[Tensor, "rows neurons"]:
        """The sketch of the tokens around their mean."""
        return self.rows - torch.outer(self.ones, self.mean)

    def energy(self, weight: Float[Tensor, "width neurons"]) -> float:
        """As of `Moments`."""
        return float((self.rows.to(weight) @ weight.T).double().square().sum())


def _check(tokens: int, values: Tensor) -> None:
    if tokens < 1:
        raise NeuroglotError("Moments of no tokens say nothing; give text in the language.")
    if not bool(torch.isfinite(values).all()):
        raise NeuroglotError(
            "The hidden units of this text have values that are not numbers (NaN or infinite); load the model in "
            "float32 or bfloat16."
        )
