"""Change neurons while the model runs.

An `Intervention` names neurons, a site, and what to put in the place of their values. `intervene` puts any number of
them in force for the length of a `with` block: in the forward pass, under `generate`, in any evaluation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.ffn import Site
from neuroglot.model import Model

__all__ = ["Deactivate", "Intervention", "intervene"]


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """What to do to some neurons. Subclasses say it in `change`.

    Attributes:
        neurons: (L, N) bool, which neurons.
        site: where: `activation` (the output of the activation function) or `hidden` (what enters the down-projection).
    """

    neurons: Bool[Tensor, "layers neurons"]
    site: Site = "activation"

    @abstractmethod
    def change(self, values: Float[Tensor, "*tokens chosen"], layer: int) -> Tensor | float:
        """What to put in the place of the chosen neurons' values in a layer."""


@dataclass(frozen=True, eq=False)
class Deactivate(Intervention):
    """Set the neurons to zero (Tang et al. 2024, §3.2): nothing of them enters the down-projection.

    In a gated FFN a zero activation makes a zero hidden, so both sites give the same.
    """

    def change(self, values: Float[Tensor, "*tokens chosen"], layer: int) -> Tensor | float:
        """Zero."""
        return 0.0


@contextmanager
def intervene(model: Model, *interventions: Intervention) -> Iterator[None]:
    """Put interventions in force inside the block, and leave the model exactly as it was, also after an exception.

    They apply in the order given, each to what the ones before it left; those at the activation site come before those
    at the hidden site, since the model computes it first. Blocks may be nested.

    Raises:
        NeuroglotError: neurons are not a boolean (L, N) of this model.
    """
    shape = (model.layers, model.neurons)
    for intervention in interventions:
        check_mask(intervention.neurons, shape)
    with ExitStack() as stack:
        for intervention in interventions:
            for layer, (ffn, chosen) in enumerate(zip(model.ffns, intervention.neurons, strict=True)):
                if bool(chosen.any()):
                    edit = _edit(intervention, layer, chosen.nonzero().flatten())
                    stack.enter_context(ffn.edit(intervention.site, edit))
        yield


def check_mask(mask: Any, shape: tuple[int, int]) -> None:
    """Refuse a mask that is not a boolean (L, N) of this shape.

    Raises:
        NeuroglotError: as said.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise NeuroglotError('neurons must be a boolean tensor (layers, neurons), such as neurons["fr"].')
    if tuple(mask.shape) != shape:
        raise NeuroglotError(
            f"These neurons are for a model of {' × '.join(map(str, mask.shape))} neurons, but this one has "
            f"{shape[0]} × {shape[1]}; use neurons found in this model."
        )


def _edit(intervention: Intervention, layer: int, index: Tensor) -> Callable[[Tensor], Tensor]:
    def edit(values: Tensor) -> Tensor:
        nonlocal index
        if index.device != values.device:
            index = index.to(values.device)
        # The tensor is the model's own and freshly computed, so it may be written to, unless gradients need it.
        changed = values.clone() if torch.is_grad_enabled() else values
        new = intervention.change(values[..., index], layer)
        if isinstance(new, Tensor):
            changed[..., index] = new.to(values.dtype)
        else:
            changed.index_fill_(-1, index, new)
        return changed

    return edit
