"""Interventions that differ from row to row of a batch, as numbers that one operation applies to all rows.

Every built-in intervention makes of a neuron's value x the value clamp(gain · x + shift, low, high), and so does one after
another. So what a recipe does at a site of a layer is four numbers a neuron, and a batch of recipes four matrices (rows, N).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale
from neuroglot.models.architecture.sites import Edit, Site
from neuroglot.models.model import Model

__all__ = ["Part", "RowEdits", "in_rows"]

Part = Literal["prompt", "generated"]
Place = tuple[int, Site]
"""A layer, and a site of it."""

FOLDED = (Deactivate, Replace, Raise, Add, Scale)


def in_rows(steps: Iterable[Any]) -> bool:
    """Whether these steps can differ from row to row: what somebody else wrote, and zeroed weights, cannot."""
    return all(type(step) in FOLDED for step in steps)


@dataclass
class Affine:
    """clamp(gain · x + shift, low, high) for every neuron of a site."""

    gain: Float[Tensor, " neurons"]
    shift: Float[Tensor, " neurons"]
    low: Float[Tensor, " neurons"]
    high: Float[Tensor, " neurons"]

    @classmethod
    def identity(cls, neurons: int) -> "Affine":
        """What changes nothing."""
        return cls(*(torch.full((neurons,), value) for value in (1.0, 0.0, -inf, inf)))

    def then(self, step: Intervention, layer: int) -> None:
        """Follow it by an intervention."""
        chosen = step.neurons[layer].cpu()
        given = torch.as_tensor(getattr(step, "values", 0.0)).cpu()
        given = (given[layer][chosen] if given.ndim else given) * getattr(step, "strength", 1.0)
        given = given.to(self.gain.dtype).expand(int(chosen.sum()))
        if isinstance(step, Raise):
            self.low[chosen] = self.low[chosen].maximum(given)
            self.high[chosen] = self.high[chosen].maximum(given)
        elif isinstance(step, Add):
            for part in (self.shift, self.low, self.high):
                part[chosen] += given
        elif isinstance(step, Scale):
            self._scale(chosen, given)
        else:  # to a number, whatever it was
            self.gain[chosen], self.shift[chosen] = 0.0, 0.0 if isinstance(step, Deactivate) else given
            self.low[chosen], self.high[chosen] = -inf, inf

    def _scale(self, chosen: Tensor, factor: Tensor) -> None:
        self.gain[chosen] *= factor
        self.shift[chosen] *= factor
        ends = torch.stack([self.low[chosen], self.high[chosen]]) * factor
        none = factor == 0  # 0 · ∞ has no value, and nothing is left to clamp
        ends = torch.where(none, torch.tensor([[-inf], [inf]]), ends)
        self.low[chosen], self.high[chosen] = ends.amin(0), ends.amax(0)
        fixed = chosen.nonzero().flatten()[none]
        self.gain[fixed], self.shift[fixed] = 0.0, 0.0

    @property
    def clamps(self) -> bool:
        """Whether a bound is in force anywhere."""
        return bool((self.low > -inf).any() or (self.high < inf).any())

    def stacked(self) -> Float[Tensor, "4 neurons"]:
        """Its four numbers a neuron."""
        return torch.stack([self.gain, self.shift, self.low, self.high])


def folded(model: Model, steps: Sequence[Intervention], part: Part) -> dict[Place, Affine]:
    """What steps do to the tokens of the prompt, or to those generated, by layer and site."""
    found: dict[Place, Affine] = {}
    for step in steps:
        if step.when not in ("both", part):
            continue
        for layer, (ffn, chosen) in enumerate(zip(model.ffns, step.neurons, strict=True)):
            if bool(chosen.any()):
                site: Site = step.site if getattr(ffn, "gated", True) else "activation"  # one tensor in a plain FFN
                found.setdefault((layer, site), Affine.identity(len(chosen))).then(step, layer)
    return found


class RowEdits:
    """The tables of a batch: row r of each does to row r of the batch what that row's recipe says.

    Args:
        model: whose neurons.
        recipes: the different ones that rows may have; equal ones are given once.
        part: which tokens are read under these tables.
        rows: how many rows the tables have. With one recipe a single row does for all.
    """

    def __init__(self, model: Model, recipes: Sequence[Sequence[Intervention]], part: Part, rows: int):
        self.model, self.rows = model, rows
        self._folded = [folded(model, steps, part) for steps in recipes]
        places = sorted({place for each in self._folded for place in each})
        self.shared = len(recipes) == 1
        dtype, device = model.network.dtype, model.device
        clamps = {place: any(place in each and each[place].clamps for each in self._folded) for place in places}
        self._recipes: dict[Place, Tensor] = {}
        self._tables: dict[Place, Tensor] = {}
        for place in places:
            width = next(len(each[place].gain) for each in self._folded if place in each)
            kept = 4 if clamps[place] else 2
            stack = [each.get(place, Affine.identity(width)).stacked()[:kept] for each in self._folded]
            self._recipes[place] = torch.stack(stack, 1).to(device, dtype)  # (4 or 2, recipes, neurons)
            self._tables[place] = self._recipes[place][:, [0] * (1 if self.shared else rows)].clone()

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a captured pass depends on: which places are edited and how, not by which numbers."""
        return (self.shared, *((place, table.shape) for place, table in self._tables.items()))

    def assign(self, rows: Tensor, recipes: Tensor) -> None:
        """Give rows their recipes, by number."""
        if not self.shared:
            for place, table in self._tables.items():
                table[:, rows] = self._recipes[place][:, recipes]

    def move(self, source: Tensor, target: Tensor) -> None:
        """Give some rows what other rows had."""
        if not self.shared:
            for table in self._tables.values():
                table[:, target] = table[:, source]

    def refill(self, other: "RowEdits") -> None:
        """Take the numbers of tables of the same structure, in place."""
        self._recipes = other._recipes
        for place, table in self._tables.items():
            table.copy_(other._tables[place])

    @contextmanager
    def applied(self, rows: int) -> Iterator[None]:
        """Put the first `rows` rows in force inside the block."""
        with ExitStack() as stack:
            for (layer, site), table in self._tables.items():
                stack.enter_context(self.model.ffns[layer].edit(site, self._edit(table, rows)))
            yield

    def _edit(self, table: Tensor, rows: int) -> Edit:
        numbers = table if self.shared else table[:, :rows]

        def change(values: Tensor) -> Tensor:
            # OPT lays the batch and its tokens in one row
            each = values.view(numbers.shape[1] if not self.shared else 1, -1, values.shape[-1])
            changed = torch.addcmul(numbers[1][:, None], each, numbers[0][:, None])
            if len(numbers) == 4:
                changed = torch.clamp(changed, numbers[2][:, None], numbers[3][:, None])
            return changed.view(values.shape)

        return change
