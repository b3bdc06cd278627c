"""UnitChange neurons while the model runs.

An `Intervention` names neurons, a site, and what to put in the place of their values. `intervene` puts any number of
them in force for the length of a `with` block: in the forward pass, under `generate`, in any evaluation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuroglot.edit.positions import When, _in_part, _Places, check_when
from neuroglot.edit.routing import Rerouting, check_experts
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.storage.given import real

__all__ = ["Add", "Deactivate", "Intervention", "Raise", "Replace", "Scale", "UnitChange", "described", "intervene"]

Values = Float[Tensor, "layers neurons"] | float
Chosen = Float[Tensor, "*tokens chosen"]


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """What to do to some neurons. Subclasses say it in `change`.

    Attributes:
        neurons: (L, N) bool, which neurons; at the residual site (L, width), which dimensions of the stream; at the
            site `heads` (attentions, heads), which heads.
        site: where: `activation` (the output of the activation function), `hidden` (what enters the down-projection),
            `residual` (the residual stream that leaves the layer), or `heads` (what enters an attention's output
            projection; a head is a vector, so it can be deactivated and scaled, and nothing else).
        when: on which tokens: those of the `prompt`, those the model has `generated` (as it reads them again to go
            on: the first new token follows from the prompt alone), or `both`.
    """

    neurons: Bool[Tensor, "layers neurons"]
    site: Site = field(default="activation", kw_only=True)
    when: When = field(default="both", kw_only=True)

    @property
    def units(self) -> Bool[Tensor, "layers neurons"]:
        """What it changes: neurons, or dimensions of the stream."""
        return self.neurons

    @abstractmethod
    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """What to put in the place of the chosen neurons' `current` values; `given` are their `strength · values`."""

    def gate(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        """Which tokens of a layer it acts on, from all that the site holds of each; None for all of them."""
        return None


@dataclass(frozen=True, eq=False)
class Deactivate(Intervention):
    """Set the neurons to zero (Tang et al. 2024, §3.2): nothing of them enters the down-projection.

    In a gated FFN a zero activation makes a zero hidden, so both sites give the same.
    """

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """Zero."""
        return 0.0


@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """Set the neurons to given values, whatever they were.

    Attributes:
        values: (L, N), such as a language's means, `recording.language_mean("zh")`; or one number.
        strength: the values are multiplied by it.
    """

    values: Values
    strength: float = 1.0

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """The given values."""
        return given


@dataclass(frozen=True, eq=False)
class Raise(Intervention):
    """Raise the neurons to given values, and leave alone what is higher (Tang et al. 2024, §3.3.4).

    Attributes:
        values: (L, N), such as a language's means, `recording.language_mean("zh")`; or one number.
        strength: the values are multiplied by it.
    """

    values: Values
    strength: float = 1.0

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """The larger of the two."""
        return current.clamp_min(given)


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """Add a multiple of given values.

    Attributes:
        values: (L, N), such as a language's means, `recording.language_mean("zh")`, or how far they are from those of
            the others, `recording.language_difference("zh")`; or one number.
        strength: the multiple.
    """

    values: Values
    strength: float = 1.0

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """The sum."""
        return current + given


@dataclass(frozen=True, eq=False)
class Scale(Intervention):
    """Multiply the neurons by a factor: 1 changes nothing, 0 deactivates.

    Attributes:
        values: the factor, one for all or (L, N).
    """

    values: Values

    def change(self, current: Chosen, given: Tensor | float) -> Tensor | float:
        """The product."""
        return current * given


MASKS = {"residual": "dimensions", "heads": "heads", "router": "experts"}
"""What a mask is of at a site, if not of neurons."""

UnitChange = Intervention | Rerouting
"""What can be put in force: a change to neurons or to the residual stream, or to what a router chooses."""


def described(change: UnitChange) -> str:
    """A change in a few words: `deactivate 12 neurons`."""
    kind, count = type(change).__name__.lower().removesuffix("experts"), int(change.units.sum())
    return f"{kind} {count:,} {'residual ' * (change.site == 'residual')}{MASKS.get(change.site, 'neurons')}"


@contextmanager
def intervene(model: Model, *interventions: Intervention | Rerouting) -> Iterator[None]:
    """Put interventions in force inside the block, and leave the model exactly as it was, also after an exception.

    They apply in the order given, each to what the ones before it left; in a layer, those at the activation site come
    before those at the hidden site, and those before the ones on the residual stream, as the model computes them.
    Blocks may be nested.

    Which tokens are the prompt (`when`): under `evaluate.generate`, the positions of the prompts. Elsewhere a text is a
    prompt, except what is read with a filled key-value cache, which is what was generated; inside `prompt_length` it is
    what that says.

    Raises:
        NeuroglotError: neurons are not a boolean (L, N) of this model, or values are no such numbers.
    """
    model.check_state()
    for intervention in interventions:
        check_intervention(intervention, model)
    with ExitStack() as stack:
        places = _Places(model)
        if any(intervention.when != "both" for intervention in interventions):
            stack.enter_context(places.followed())
        for intervention in interventions:
            if isinstance(intervention, Rerouting):
                _reroute(model, intervention, places, stack)
                continue
            intervention = of_columns(intervention, model)
            for layer, (part, chosen) in enumerate(
                zip(model.parts(intervention.site), intervention.neurons, strict=True)
            ):
                if bool(chosen.any()):
                    edit = _edit(intervention, layer, chosen.nonzero().flatten())
                    if intervention.when != "both":
                        edit = _in_part(edit, intervention.when, places)
                    stack.enter_context(part.edit(intervention.site, edit))
        yield


def of_columns(step: Intervention, model: Model) -> Intervention:
    """The intervention by what its site holds a number of: neurons and dimensions as they are, heads by their columns.

    Neurons beyond a layer's width are none.
    """
    if step.site == "residual":
        return step
    if step.site != "heads":
        return step if model.uneven is None else replace(step, neurons=step.neurons.cpu() & model.exists)
    width = max(attention.columns.numel() for attention in model.attentions)
    chosen = torch.zeros(len(model.attentions), width, dtype=torch.bool)
    values = getattr(step, "values", None)
    spread = torch.zeros(chosen.shape, dtype=torch.float64) if isinstance(values, Tensor) and values.ndim else None
    for place, attention in enumerate(model.attentions):
        for head in step.neurons[place, : attention.heads].nonzero().flatten().tolist():
            chosen[place, attention.columns[head]] = True
            if spread is not None:
                spread[place, attention.columns[head]] = float(values[place, head])  # type: ignore[index]
    changed: dict[str, Any] = {"neurons": chosen} | ({} if spread is None else {"values": spread})
    return replace(step, **changed)


def _reroute(model: Model, change: Rerouting, places: _Places, stack: ExitStack) -> None:
    for layer, mixture in model.mixtures.items():
        if bool(change.experts[layer].any()):
            edit = change.change(layer, mixture.experts)
            if change.when != "both":
                edit = _in_part(edit, change.when, places)
            stack.enter_context(mixture.route(edit, change.off(layer)[: mixture.experts]))


def check_mask(mask: Any, shape: tuple[int, int], units: str = "neurons") -> None:
    """Refuse a mask that is not a boolean (L, N) of this shape.

    Raises:
        NeuroglotError: as said.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise NeuroglotError('neurons must be a boolean tensor (layers, neurons), such as neurons["fr"].')
    if tuple(mask.shape) != shape:
        raise NeuroglotError(
            f"These {units} are for a model of {' × '.join(map(str, mask.shape))} {units}, but this one has "
            f"{shape[0]} × {shape[1]}; use {units} found in this model."
        )


def check_intervention(intervention: Intervention | Rerouting, model: Model) -> None:
    """Refuse neurons or values that are not of this model's shape, and values that are not numbers.

    Raises:
        NeuroglotError: as said.
    """
    if isinstance(intervention, Rerouting):
        check_experts(intervention, model)
        return
    if not isinstance(intervention, Intervention):
        raise NeuroglotError(
            "What is put in force are interventions such as Deactivate(neurons), one by one, not a "
            f"{type(intervention).__name__}."
        )
    if intervention.site not in get_args(Site):
        raise NeuroglotError(f"site is {', '.join(get_args(Site))}, not {intervention.site!r}.")
    units = MASKS.get(intervention.site, "neurons")
    if intervention.site == "heads" and type(intervention) not in (Deactivate, Scale):
        raise NeuroglotError(
            f"{type(intervention).__name__} at the site heads has no meaning, since a head is a vector and no number; "
            "deactivate or scale it."
        )
    shape = model.shape(intervention.site)
    check_mask(intervention.neurons, shape, units)
    check_when(intervention.when)
    values = getattr(intervention, "values", 0.0)
    if not isinstance(values, Tensor | Real | np.ndarray) or (isinstance(values, np.ndarray) and values.ndim):
        raise NeuroglotError(
            f"The values are a tensor (layers, neurons) or one number, and not a {type(values).__name__}; give "
            "torch.as_tensor(values)."
        )
    if isinstance(values, Tensor) and values.ndim and tuple(values.shape) != shape:
        raise NeuroglotError(
            f"The values must be one number or {shape[0]} × {shape[1]}, one for each "
            f"{units.removesuffix('s')}, not {' × '.join(map(str, values.shape))}."
        )
    strength = getattr(intervention, "strength", 1.0)
    for name, given in (("The values", values), ("strength", strength)):
        if not isinstance(given, Tensor | int | float):  # which would be multiplied as they are
            real(given, name)
    # the usual case is one number, without an operation of torch for each of many recipes
    if isinstance(values, int | float) and isinstance(strength, int | float):
        most = abs(values * strength)
    else:
        most = float((torch.as_tensor(values) * strength).abs().max())
    if not most <= torch.finfo(model.network.dtype).max:
        raise NeuroglotError(
            f"The values have entries that are not numbers (NaN or infinite), or that {model.dtype} cannot hold; give "
            "finite and smaller ones."
        )


def _edit(intervention: Intervention, layer: int, index: Tensor) -> Callable[[Tensor], Tensor]:
    given: Tensor | float = getattr(intervention, "values", 0.0)
    if isinstance(given, Tensor):
        given = given[layer, index.cpu()] if given.ndim else float(given)
    given = given * getattr(intervention, "strength", 1.0)

    blind = type(intervention).change in (Deactivate.change, Replace.change)  # the current values need not be read
    gate = intervention.gate(layer)

    def edit(values: Tensor) -> Tensor:
        nonlocal index, given
        index = index.to(values.device)  # both are no-ops after the first time
        if isinstance(given, Tensor):
            given = given.to(values)
        # The tensor is the model's own and freshly computed, so it may be written to, unless gradients need it; the
        # stream may be kept elsewhere, as what a caller asked for with output_hidden_states.
        changed = values.clone() if torch.is_grad_enabled() or intervention.site == "residual" else values
        current = values.new_empty(0) if blind else values.index_select(-1, index)
        new = intervention.change(current, given)
        if gate is not None:
            new = torch.where(gate(values)[..., None], new, values.index_select(-1, index))
        if isinstance(new, Tensor):
            changed.index_copy_(-1, index, new.expand(*values.shape[:-1], len(index)))
        else:
            changed.index_fill_(-1, index, new)
        return changed

    return edit
