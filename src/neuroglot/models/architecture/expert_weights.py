"""The weights of a layer's experts, however they are stored, and what the two sites are."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.weights import is_readable

__all__ = ["ExpertWeights", "by_expert", "fit_a_grouped_product", "holds_experts"]

OWN = ("Llama4TextExperts",)  # code of their own whose layout is known: transposed, the gate first


def holds_experts(module: nn.Module) -> bool:
    """Whether a module holds all experts of a layer in a way that is known."""
    weights = [getattr(module, name, None) for name in ("gate_up_proj", "up_proj")]
    whole = any(isinstance(weight, nn.Parameter) and weight.ndim == 3 for weight in weights)
    return whole and (hasattr(module, "has_gate") or type(module).__name__ in OWN)


def fit_a_grouped_product(module: nn.Module) -> bool:
    """Whether torch can multiply all experts at once, as transformers does by default: their rows fill 16 bytes."""
    sizes = [size * weight.element_size() for weight in module.parameters() for size in weight.shape[1:]]
    return all(size % 16 == 0 for size in sizes)


class ExpertWeights:
    """The weights of E experts of width I over a stream of width H.

    Attributes:
        experts: E.
        width: I.
        gated: whether a gate is multiplied into the activation.
    """

    def __init__(self, module: nn.Module):
        self.module: Any = module
        self.gated = bool(getattr(module, "has_gate", True))
        self._transposed = bool(getattr(module, "is_transposed", type(module).__name__ in OWN))
        self._halves = bool(getattr(module, "is_concatenated", True))
        self.experts, _, self.width = self.down.shape

    def _turned(self, weight: Tensor) -> Tensor:
        if weight.ndim != 3 or not (is_readable(weight) or weight.device.type == "meta"):
            raise NeuroglotError(
                "The experts' weights are packed, so their neurons cannot be computed apart; load the model "
                "dequantised."
            )
        return weight.transpose(1, 2) if self._transposed else weight

    def _split(self, both: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The gate's half, and the up-projection's."""
        if self._halves:
            gate, up = both.chunk(2, axis)
            return gate, up
        index = [slice(None)] * both.ndim
        index[axis] = slice(0, None, 2)
        other = [*index]
        other[axis] = slice(1, None, 2)
        return both[tuple(index)], both[tuple(other)]

    @property
    def first(self) -> Float[Tensor, "experts outer stream"]:
        """What the stream is multiplied with: the gate's and the up-projection's rows, or the only projection's."""
        return self._turned(self.module.gate_up_proj if self.gated else self.module.up_proj)

    @property
    def up(self) -> Float[Tensor, "experts width stream"]:
        """The up-projection's rows (gated) or the only projection's; a view."""
        return self._split(self.first, 1)[1] if self.gated else self.first

    @property
    def gate(self) -> Float[Tensor, "experts width stream"] | None:
        """The gate projection's rows; a view."""
        return self._split(self.first, 1)[0] if self.gated else None

    @property
    def down(self) -> Float[Tensor, "experts stream width"]:
        """The down-projection's columns; a view."""
        return self._turned(self.module.down_proj)

    @property
    def first_bias(self) -> Tensor | None:
        """What is added to the first product."""
        name = "gate_up_proj_bias" if self.gated else "up_proj_bias"
        return getattr(self.module, name) if getattr(self.module, "has_bias", False) else None

    @property
    def down_bias(self) -> Tensor | None:
        """What is added to the down-projection."""
        return self.module.down_proj_bias if getattr(self.module, "has_bias", False) else None

    def normed(self, out: Tensor) -> Tensor:
        """The experts' output, after a norm where there is one."""
        if not getattr(self.module, "has_post_expert_norm", False):
            return out
        normed: Tensor = self.module.post_expert_norm(out)
        return normed

    def sites(self, first: Float[Tensor, "pairs outer"]) -> tuple[Tensor, Tensor]:
        """The activation and the hidden values, (pairs, width) each."""
        if not self.gated:
            activation = self.module.act_fn(first)
            return activation, activation
        if self._plain:
            gate, up = self._split(first, -1)
            activation = self.module.act_fn(gate)
            return activation, activation * up
        return self._gate_alone(first), self.module._apply_gate(first)

    def factor(self, first: Float[Tensor, "pairs outer"]) -> Float[Tensor, "pairs width"]:
        """What the activation is multiplied with to give the hidden values."""
        gate, up = self._split(first, -1)
        if self._plain:
            return up
        ones = torch.ones_like(gate)
        both = self._joined(ones, up)
        hidden: Tensor = self.module._apply_gate(both)
        return hidden / self._gate_alone(both)

    @property
    def _plain(self) -> bool:
        """Whether a gate is `act(gate) * up` and no more."""
        own = getattr(type(self.module), "_apply_gate", None)
        return own is None or own.__name__ == "_default_apply_gate"

    def _joined(self, gate: Tensor, up: Tensor) -> Tensor:
        return torch.cat([gate, up], -1) if self._halves else torch.stack([gate, up], -1).flatten(-2)

    def _gate_alone(self, first: Tensor) -> Tensor:
        """What the gate gives with an up-projection that leaves it as it is: 1, or 0 where one is added to it."""
        gate, up = self._split(first, -1)
        probe = self._joined(first.new_ones(1, self.width), first.new_zeros(1, self.width))
        added = bool(self.module._apply_gate(probe).ne(0).all())
        alone: Tensor = self.module._apply_gate(self._joined(gate, torch.full_like(up, 0.0 if added else 1.0)))
        return alone


def by_expert(
    values: Float[Tensor, "pairs inner"],
    sizes: Sequence[tuple[int, int]],
    weight: Float[Tensor, "experts outer inner"],
    bias: Float[Tensor, "experts outer"] | None,
) -> Float[Tensor, "pairs outer"]:
    """Each expert's product with the tokens that reach it, so many after one another."""
    parts = [
        F.linear(some, weight[expert], None if bias is None else bias[expert])
        for (expert, _), some in zip(sizes, values.split([size for _, size in sizes]), strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else values.new_zeros(0, weight.shape[1])
