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
from jaxtyping import Bool, Float
from torch import Tensor

from neuroglot.edit.drift import AddOnDrift
from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale, of_columns
from neuroglot.models.architecture.devices import OnDevices, device_of
from neuroglot.models.architecture.sites import Edit, Site
from neuroglot.models.model import Model

__all__ = ["Place", "RowEdits", "in_rows"]

Part = Literal["prompt", "generated"]
Place = tuple[int, Site | Literal["drift"]]
"""A layer, and a site of it, or what acts there on drift."""

AT_ONCE = 64
"""Recipes that are folded together: four numbers a neuron of each are held while they are."""
FOLDED = (Deactivate, Replace, Raise, Add, Scale)


DRIFT: Literal["drift"] = "drift"
"""The place of what acts on the residual stream after the constants there, only on drift."""


def in_rows(steps: Iterable[Any]) -> bool:
    """Whether these steps can differ from row to row: what somebody else wrote, and zeroed weights, cannot.

    Nor can what follows a step on drift in the stream of its layer.
    """
    drifting: set[int] = set()
    for step in steps:
        if type(step) not in (*FOLDED, AddOnDrift):
            return False
        if step.site == "residual":
            layers = {layer for layer, some in enumerate(step.neurons.any(1).tolist()) if some}
            if layers & drifting:
                return False
            drifting |= layers if isinstance(step, AddOnDrift) else set()
    return True


class Affine:
    """clamp(gain · x + shift, low, high) for every neuron of a site, on the device: (recipes, layers, N)."""

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self.gain, self.shift, self.low, self.high = (
            torch.full(shape, value, device=device) for value in (1.0, 0.0, -inf, inf)
        )
        self.layers: set[int] = set()
        self.clamps = False

    def then(self, steps: Sequence[Intervention], chosen: Bool[Tensor, "recipes layers neurons"]) -> None:
        """Follow each recipe by an intervention on the chosen neurons, all of one kind."""
        kind = type(steps[0])
        new = self._after(kind, torch.zeros((), device=self.gain.device) if kind is Deactivate else self._given(steps))
        self.gain, self.shift, self.low, self.high = (
            torch.where(chosen, after, before)
            for after, before in zip(new, (self.gain, self.shift, self.low, self.high), strict=True)
        )
        self.clamps |= issubclass(kind, Raise)

    def _given(self, steps: Sequence[Intervention]) -> Tensor:
        """The steps' values times their strengths: of each neuron, or of each recipe."""
        values = [
            torch.as_tensor(getattr(step, "values", 0.0)).to(torch.float64) * getattr(step, "strength", 1.0)
            for step in steps
        ]
        given = torch.stack(values).to(self.gain.device, self.gain.dtype)
        return given if given.ndim == 3 else given[:, None, None]

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
        some = [
            of_columns(step, model)
            for step in steps
            if step.when in ("both", part) and not isinstance(step, AddOnDrift)
        ]
        kinds = tuple((type(step), step.site, getattr(getattr(step, "values", 0.0), "ndim", 0)) for step in some)
        groups.setdefault(kinds, []).append((number, some))
    return [
        ([number for number, _ in group[first : first + AT_ONCE]], _together(model, group[first : first + AT_ONCE]))
        for group in groups.values()
        for first in range(0, len(group), AT_ONCE)
    ]


def _together(model: Model, group: Sequence[tuple[int, Sequence[Intervention]]]) -> dict[Site, Affine]:
    found: dict[Site, Affine] = {}
    for steps in zip(*(steps for _, steps in group), strict=True):
        site, first = steps[0].site, steps[0].neurons
        chosen = torch.stack([step.neurons.to(first.device) for step in steps]).to(model.device)
        layers: dict[Site, list[int]] = {}
        for layer, some in enumerate(chosen.any(2).any(0).tolist()):
            if some:
                one = site in ("activation", "hidden") and model.ffns[layer].one_site
                layers.setdefault("activation" if one else site, []).append(layer)
        for place, where in layers.items():
            inside = torch.zeros(len(first), dtype=torch.bool)
            inside[where] = True
            affine = found.setdefault(place, Affine((len(steps), *first.shape), model.device))
            affine.then(steps, chosen if len(layers) == 1 else chosen & inside.to(model.device)[:, None])
            affine.layers |= set(where)
    return found


def drifts(model: Model, steps: Sequence[Intervention], part: Part) -> dict[int, Float[Tensor, "numbers width"]]:
    """What steps on drift do to the tokens of the prompt, or to those generated: layer → (shift, probe, threshold)."""
    found = {}
    for step in steps:
        if isinstance(step, AddOnDrift) and step.when in ("both", part):
            shift = torch.as_tensor(step.values, dtype=torch.float64).cpu() * step.strength
            shift = torch.where(step.neurons.cpu(), shift, 0.0)
            for layer in step.neurons.any(1).nonzero().flatten().tolist():
                threshold = step.threshold[layer].cpu().expand(shift.shape[1])
                numbers = torch.stack([shift[layer], step.probe[layer].cpu().double(), threshold.double()])
                found[layer] = numbers.to(model.device, torch.float32)
    return found


Tables = dict[
    tuple[Site | Literal["drift"], torch.device],
    tuple[tuple[int, ...], Float[Tensor, "layers numbers recipes width"]],
]
"""By site and device, the layers that some recipe changes, and what every recipe does there."""


def tables(model: Model, recipes: Sequence[Sequence[Intervention]], part: Part) -> Tables:
    """What recipes do to the tokens of the prompt, or to those generated."""
    made: Tables = {}
    alike = folded(model, recipes, part)
    for site in sorted({site for _, each in alike for site in each}):
        some = [(numbers, each[site]) for numbers, each in alike if site in each]
        layers = sorted({layer for _, each in some for layer in each.layers})
        kept = 4 if any(each.clamps for _, each in some) else 2
        for device, inside in _by_device(model, site, layers).items():
            nothing = torch.tensor([1.0, 0.0, -inf, inf][:kept], dtype=model.network.dtype, device=device)
            table = nothing[:, None, None].repeat(len(inside), 1, len(recipes), some[0][1].gain.shape[-1])
            for numbers, each in some:
                table[:, :, numbers] = each.stacked(kept, table.dtype).permute(2, 0, 1, 3)[inside].to(device)
            made[site, device] = tuple(inside), table
    drifting = [drifts(model, steps, part) for steps in recipes]
    if layers := sorted({layer for each in drifting for layer in each}):
        never = torch.zeros_like(next(each[layers[0]] for each in drifting if layers[0] in each))
        never[2] = -inf
        rows = {layer: torch.stack([each.get(layer, never) for each in drifting], 1) for layer in layers}
        for device, inside in _by_device(model, DRIFT, layers).items():
            made[DRIFT, device] = tuple(inside), torch.stack([rows[layer] for layer in inside]).to(device)
    return made


def _by_device(model: Model, site: Site | Literal["drift"], layers: Sequence[int]) -> dict[torch.device, list[int]]:
    """The layers of each device, by what holds the site."""
    parts = model.parts("residual" if site == DRIFT else site)
    found: dict[torch.device, list[int]] = {}
    for layer in layers:
        found.setdefault(device_of(parts[layer].layer), []).append(layer)
    return found


class RowEdits:
    """The tables of a batch: row r of each does to row r of the batch what that row's recipe says.

    Args:
        model: whose neurons.
        recipes: what the different recipes do that rows may have.
        count: of recipes.
        rows: how many rows the tables have. With one recipe a single row does for all.
    """

    def __init__(self, model: Model, recipes: Tables, count: int, rows: int):
        self.model = model
        self.shared = count == 1
        self._recipes = recipes
        # those of all layers of a site and device are one tensor, so that a batch's recipes change by few operations
        self._sites = {
            place: table[:, :, :1].repeat(1, 1, 1 if self.shared else rows, 1) for place, (_, table) in recipes.items()
        }
        self._tables: dict[Place, Tensor] = {
            (layer, place[0]): self._sites[place][number, ..., : _width(model, layer, place[0])]
            for place, (layers, _) in recipes.items()
            for number, layer in enumerate(layers)
        }

    @classmethod
    def of_parts(
        cls, model: Model, recipes: Sequence[Sequence[Intervention]], rows: int
    ) -> tuple["RowEdits", "RowEdits"]:
        """The tables for the tokens of the prompts, and for those generated. Equal recipes are given once."""
        alike = all(step.when == "both" for steps in recipes for step in steps)
        parts: tuple[Part, ...] = ("prompt",) if alike else ("prompt", "generated")
        made = [tables(model, recipes, part) for part in parts]
        one, two = (cls(model, each, len(recipes), rows) for each in (made[0], made[-1]))
        return one, two

    @property
    def structure(self) -> tuple[Any, ...]:
        """What a captured pass depends on: which places are edited and how, not by which numbers."""
        return (self.shared, *((place, table.shape) for place, table in self._tables.items()))

    def assign(self, rows: Tensor, recipes: Tensor) -> None:
        """Give rows their recipes, by number."""
        if not self.shared:
            where, what = OnDevices(rows), OnDevices(recipes)
            for place, table in self._sites.items():
                given = self._recipes[place][1][:, :, what.on(table.device)]
                table[:, :, where.on(table.device)] = given

    def move(self, source: Tensor, target: Tensor) -> None:
        """Give some rows what other rows had."""
        if not self.shared:
            sources, targets = OnDevices(source), OnDevices(target)
            for table in self._sites.values():
                table[:, :, targets.on(table.device)] = table[:, :, sources.on(table.device)]

    def refill(self, other: "RowEdits") -> None:
        """Take the numbers of tables of the same structure, in place."""
        self._recipes = other._recipes
        for place, table in self._sites.items():
            table.copy_(other._sites[place])

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
                if site == "drift":
                    stack.enter_context(self.model.ffns[layer].edit("residual", self._on_drift(table, rows)))
                else:
                    stack.enter_context(self.model.parts(site)[layer].edit(site, self._edit(table, rows)))
            yield

    def _on_drift(self, table: Tensor, rows: int) -> Edit:
        numbers = table if self.shared else table[:, :rows]

        def change(values: Tensor) -> Tensor:
            each = values.view(numbers.shape[1] if not self.shared else 1, -1, values.shape[-1])
            shift, probe, threshold = numbers[0][:, None], numbers[1][:, :, None], numbers[2][:, None, :1]
            drifted = torch.matmul(each.float(), probe) < threshold
            return torch.where(drifted, each + shift.to(each), each).view(values.shape)

        return change

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


def _width(model: Model, layer: int, site: Site | Literal["drift"]) -> int:
    """How many numbers a token a site holds."""
    if site == "heads":
        return model.attentions[layer].columns.numel()
    return model.stream_width if site in ("residual", DRIFT) else model.ffns[layer].neurons
