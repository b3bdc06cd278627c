"""Interventions that differ from row to row of a batch, as numbers that one operation applies to all rows.

Every built-in intervention makes of a neuron's value x the value clamp(gain · x + shift, low, high), and so does one
after another. So what a recipe does at a site of a layer is four numbers a neuron, and a batch of recipes four matrices
(rows, N).
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale, of_columns
from neuroglot.models.architecture.sites import Edit, Site
from neuroglot.models.model import Model

__all__ = ["Place", "RowEdits", "in_rows"]

Part = Literal["prompt", "generated"]
Place = tuple[int, Site]
"""A layer, and a site of it."""

AT_ONCE = 64
"""Recipes that are folded together: four numbers a neuron of each are held while they are."""
FOLDED = (Deactivate, Replace, Raise, Add, Scale)


def in_rows(steps: Iterable[Any]) -> bool:
    """Whether these steps can differ from row to row: what somebody else wrote, and zeroed weights, cannot."""
    return all(type(step) in FOLDED for step in steps)


class Affine:
    """clamp(gain · x + shift, low, high) for every neuron of a site, on the device: (recipes, layers, N)."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device):
        self.gain, self.shift, self.low, self.high = (
            torch.full(shape, value, device=device) for value in (1.0, 0.0, -inf, inf)
        )
        self.layers: set[int] = set()
        self.clamps = False

    def then(self, steps: Sequence[Intervention], layers: list[int]) -> None:
        """Follow each recipe by an intervention on these layers, all of one kind."""
        device, kind = self.gain.device, type(steps[0])
        chosen = torch.zeros_like(self.gain, dtype=torch.bool)
        chosen[:, layers] = torch.stack([step.neurons[layers] for step in steps]).to(device)
        values = [
            torch.as_tensor(getattr(step, "values", 0.0)).to(torch.float64) * getattr(step, "strength", 1.0)
            for step in steps
        ]
        given = torch.stack(values).to(device, self.gain.dtype)
        given = given if given.ndim == 3 else given[:, None, None]
        new = self._after(kind, given)
        self.gain, self.shift, self.low, self.high = (
            torch.where(chosen, after, before)
            for after, before in zip(new, (self.gain, self.shift, self.low, self.high), strict=True)
        )
        self.layers |= set(layers)
        self.clamps |= issubclass(kind, Raise)

    def _after(self, kind: type[Intervention], given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four numbers after a step on all neurons."""
        gain, shift, low, high = self.gain, self.shift, self.low, self.high
        free = torch.full_like(low, inf)
        if kind is Raise:
            return gain, shift, low.maximum(given), high.maximum(given)
        if kind is Add:
            return gain, shift + given, low + given, high + given
        if kind is Scale:
            ends = torch.stack([low * given, high * given])
            none = (given == 0).expand_as(low)  # 0 · ∞ has no value, and nothing is left to clamp
            return gain * given, shift * given, ends.amin(0).where(~none, -free), ends.amax(0).where(~none, free)
        number = torch.zeros_like(gain) if kind is Deactivate else given.expand_as(gain)
        return torch.zeros_like(gain), number, -free, free

    def stacked(self, kept: int, dtype: torch.dtype) -> Float[Tensor, "numbers recipes layers neurons"]:
        """The first of its numbers."""
        return torch.stack([self.gain, self.shift, self.low, self.high][:kept]).to(dtype)


Alike = tuple[list[int], dict[Site, Affine]]
"""Recipes whose steps are of the same kinds, by number, and what they do at each site."""


def folded(model: Model, recipes: Sequence[Sequence[Intervention]], part: Part) -> list[Alike]:
    """What recipes do to the tokens of the prompt, or to those generated; those alike together, in few operations."""
    groups: dict[tuple[Any, ...], list[tuple[int, list[Intervention]]]] = {}
    for number, steps in enumerate(recipes):
        some = [of_columns(step, model) for step in steps if step.when in ("both", part)]
        kinds = tuple((type(step), step.site, torch.as_tensor(getattr(step, "values", 0.0)).ndim) for step in some)
        groups.setdefault(kinds, []).append((number, some))
    return [
        ([number for number, _ in group[first : first + AT_ONCE]], _together(model, group[first : first + AT_ONCE]))
        for group in groups.values()
        for first in range(0, len(group), AT_ONCE)
    ]


def _together(model: Model, group: Sequence[tuple[int, Sequence[Intervention]]]) -> dict[Site, Affine]:
    found: dict[Site, Affine] = {}
    for steps in zip(*(steps for _, steps in group), strict=True):
        site, shape = steps[0].site, tuple(steps[0].neurons.shape)
        layers: dict[Site, list[int]] = {}
        for layer, some in enumerate(torch.stack([step.neurons.any(1).cpu() for step in steps]).any(0).tolist()):
            if some:
                one = site in ("activation", "hidden") and model.ffns[layer].one_site
                layers.setdefault("activation" if one else site, []).append(layer)
        for place, where in layers.items():
            found.setdefault(place, Affine((len(steps), *shape), model.device)).then(steps, where)
    return found


class RowEdits:
    """The tables of a batch: row r of each does to row r of the batch what that row's recipe says.

    Args:
        model: whose neurons.
        recipes: what the different recipes do that rows may have; see `folded`.
        count: of recipes.
        rows: how many rows the tables have. With one recipe a single row does for all.
    """

    def __init__(self, model: Model, recipes: Sequence[Alike], count: int, rows: int):
        self.model = model
        self.shared = count == 1
        self._recipes: dict[Place, Tensor] = {}
        self._tables: dict[Place, Tensor] = {}
        for site in sorted({site for _, each in recipes for site in each}):
            some = [(numbers, each[site]) for numbers, each in recipes if site in each]
            kept = 4 if any(each.clamps for _, each in some) else 2
            _, layers, width = some[0][1].gain.shape
            nothing = torch.tensor([1.0, 0.0, -inf, inf][:kept], dtype=model.network.dtype, device=model.device)
            table = nothing[:, None, None, None].repeat(1, count, layers, width)
            for numbers, each in some:
                table[:, numbers] = each.stacked(kept, table.dtype)
            for layer in sorted({layer for _, each in some for layer in each.layers}):
                self._recipes[layer, site] = own = table[:, :, layer, : _width(model, layer, site)]
                self._tables[layer, site] = own[:, [0] * (1 if self.shared else rows)].clone()

    @classmethod
    def of_parts(
        cls, model: Model, recipes: Sequence[Sequence[Intervention]], rows: int
    ) -> tuple["RowEdits", "RowEdits"]:
        """The tables for the tokens of the prompts, and for those generated. Equal recipes are given once."""
        prompt = folded(model, recipes, "prompt")
        alike = all(step.when == "both" for steps in recipes for step in steps)
        generated = prompt if alike else folded(model, recipes, "generated")
        return cls(model, prompt, len(recipes), rows), cls(model, generated, len(recipes), rows)

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

    def table(self, layer: int, site: Site, rows: int) -> Float[Tensor, "numbers some neurons"] | None:
        """What is done at a place: gain and shift, or those and two bounds, of the first rows, or once for all."""
        table = self._tables.get((layer, site))
        return table if table is None or self.shared else table[:, :rows]

    @contextmanager
    def applied(self, rows: int, but: Container[Place] = ()) -> Iterator[None]:
        """Put the first `rows` rows in force inside the block, except at places where another does what they say."""
        with ExitStack() as stack:
            for (layer, site), table in self._tables.items():
                if (layer, site) in but:
                    continue
                stack.enter_context(self.model.parts(site)[layer].edit(site, self._edit(table, rows)))
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


def _width(model: Model, layer: int, site: Site) -> int:
    """How many numbers a token a site holds."""
    if site == "heads":
        return model.attentions[layer].columns.numel()
    return model.stream_width if site == "residual" else model.ffns[layer].neurons
