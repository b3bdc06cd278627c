"""The sites at which a neuron is read or written."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

__all__ = ["Site"]

Site = Literal["activation", "hidden"]


Edit = Callable[[Tensor], Tensor]
