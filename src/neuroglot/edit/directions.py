"""Directions of a language in the residual stream, (L, width): after each layer, what to add to be nearer to it.

Each has the length of the way from the other languages to this one along it, so that strengths of different kinds
compare: added once, it moves the mean of the others as far along it as the language's own mean lies.
"""

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from neuroglot.artifacts.recording import RESIDUAL, Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.edit.interventions import UnitChange
from neuroglot.edit.routing import Rerouting
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest

__all__ = ["SPARSE", "diffmean", "lda", "probe", "shuffled", "sparse_dimensions"]

SPARSE = 400 / 4096
"""Of the stream's dimensions the share that `sparse` changes after a layer."""

Vectors = Float64[Tensor, "layers width"]

_FITTED: WeakKeyDictionary[Samples, dict[Any, Any]] = WeakKeyDictionary()
"""Of samples: their means, and what was fitted, layer by layer, so that many recipes cost one fit."""


def diffmean(recording: Recording, to: str) -> Vectors:
    """The language's mean state less the mean of the other languages' means, after every layer.

    Raises:
        NeuroglotError: the recording lacks `residual`, the language or a second one.
    """
    return recording.language_difference(to, RESIDUAL)


def sparse_dimensions(recording: Recording, to: str, dimensions: int) -> Bool[Tensor, "layers width"]:
    """The dimensions in which the language's mean is farthest from the others', so many after every layer.

    Of equally far ones those that come first. They are units as neurons are: a mask for the residual site.

    Raises:
        NeuroglotError: as for `diffmean`; or there are not so many dimensions.
    """
    far = diffmean(recording, to).abs()
    if not isinstance(dimensions, Integral) or not 1 <= dimensions <= far.shape[1]:
        raise NeuroglotError(f"dimensions is 1 to {far.shape[1]}, the width of the stream, not {dimensions!r:.40}.")
    order = far.argsort(dim=1, descending=True, stable=True)[:, :dimensions]
    return torch.zeros_like(far, dtype=torch.bool).scatter_(1, order, True)


def shuffled(step: UnitChange, seed: int) -> UnitChange:
    """A size-matched random baseline of a step on the stream: its dimensions in a random order, the same in all layers.

    What it adds is as long, and as many dimensions change. Of a router's experts as many others of each layer. A step
    on neurons is left as it is.
    """
    if isinstance(step, Rerouting):
        draw = torch.rand(step.experts.shape, generator=torch.Generator().manual_seed(seed))
        ranks = draw.argsort(dim=1).argsort(dim=1)
        return replace(step, experts=ranks < step.experts.sum(1, keepdim=True))
    if step.site != "residual":
        return step
    width = step.neurons.shape[1]
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    changed: dict[str, Any] = {"neurons": step.neurons[:, order]}
    values = getattr(step, "values", None)
    if isinstance(values, Tensor) and values.ndim:
        changed["values"] = values[:, order]
    return replace(step, **changed)


def lda(samples: Samples, to: str, shrinkage: float = 0.1, *, layers: Sequence[int] | None = None) -> Vectors:
    """Fisher's linear discriminant between the language's samples and all others', after every layer.

    w = S⁻¹ (m − m'), where S is the covariance within languages, of which `shrinkage` is moved to a multiple of the
    identity of the same trace.

    Args:
        samples: with their mean states.
        to: the language.
        shrinkage: from 0 to 1; without any, S cannot be inverted if there are fewer samples than dimensions.
        layers: only after these, from 0; the others' directions are 0.

    Raises:
        NeuroglotError: the samples have no states, not the language or no second one; shrinkage is out of (0, 1].
    """
    if not 0 < shrinkage <= 1:
        raise NeuroglotError(f"shrinkage is above 0 and at most 1, not {shrinkage:g}.")
    states, place = _states(samples, to)
    fitted = _FITTED.setdefault(samples, {})
    difference = _difference(states, place, fitted)
    weights = torch.zeros_like(difference)
    for layer in range(len(difference)) if layers is None else layers:
        about = ("lda", place, shrinkage, layer)
        if about not in fitted:
            of_layer = states[:, :, layer].to(torch.float64)
            apart = (of_layer - of_layer.mean(1, keepdim=True)).flatten(0, 1)
            fitted[about] = _discriminant(apart, difference[layer], shrinkage)
        weights[layer] = fitted[about]
    return _along(weights, difference)


def _discriminant(apart: Tensor, way: Tensor, shrinkage: float) -> Tensor:
    covariance = apart.T @ apart / len(apart)
    level = covariance.trace() / len(way)
    mixed = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(way), dtype=torch.float64)
    return torch.linalg.solve(mixed, way) if float(level) > 0 else way


def probe(samples: Samples, to: str, penalty: float = 1.0, *, layers: Sequence[int] | None = None) -> Vectors:
    """The weights of a linear probe, a logistic regression that tells the language's samples, after every layer.

    Both sides weigh the same. States are centred and divided, all by one number, by their root mean square.

    Args:
        samples: with their mean states.
        to: the language.
        penalty: λ of λ/2n · |w|², n samples.
        layers: only after these, from 0; the others' directions are 0.

    Raises:
        NeuroglotError: the samples have no states, not the language or no second one; the penalty is not positive.
    """
    if not penalty > 0:
        raise NeuroglotError(f"penalty is above 0, not {penalty:g}.")
    states, place = _states(samples, to)
    side = torch.zeros(states.shape[:2], dtype=torch.float64)
    side[place] = 1
    side = side.flatten()
    weight = torch.where(side > 0, 0.5 / side.sum(), 0.5 / (1 - side).sum())
    fitted = _FITTED.setdefault(samples, {})
    difference = _difference(states, place, fitted)
    weights = torch.zeros_like(difference)
    for layer in range(len(difference)) if layers is None else layers:
        about = ("probe", place, penalty, layer)
        if about not in fitted:
            if ("axes", layer) not in fitted:  # the same for every language
                fitted["axes", layer] = _axes(states[:, :, layer].to(torch.float64).flatten(0, 1))
            data, axes = fitted["axes", layer]
            fitted[about] = _regression(data, axes, side, weight, penalty)
        weights[layer] = fitted[about]
    return _along(weights, difference)


def _axes(states: Tensor) -> tuple[Tensor, Tensor]:
    """Samples in coordinates of their own, and the axes: they lie in at most as many dimensions as they are."""
    centred = states - states.mean(0)
    size = centred.square().mean().sqrt()
    left, scale, right = torch.linalg.svd(centred / size if float(size) > 0 else centred, full_matrices=False)
    return left * scale, right


@torch.enable_grad()
def _regression(data: Tensor, axes: Tensor, side: Tensor, weight: Tensor, penalty: float) -> Tensor:
    if not bool(data.any()):
        return torch.zeros(axes.shape[1], dtype=torch.float64)
    found = torch.zeros(data.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [found], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        logits = data @ found[:-1] + found[-1]
        misses = torch.nn.functional.binary_cross_entropy_with_logits(logits, side, weight, reduction="sum")
        value = misses + penalty / (2 * len(data)) * found[:-1].square().sum()
        value.backward()
        return value

    search.step(loss)
    weights: Tensor = axes.T @ found.detach()[:-1]
    return weights


def _states(samples: Samples, to: str) -> tuple[Float[Tensor, "languages samples layers width"], int]:
    """The mean states, and which of the languages it is."""
    if samples.states is None:
        raise NeuroglotError("These samples have no residual-stream states; record them with states=True.")
    tag = closest(to, samples.languages)
    if tag is None or len(samples.languages) < 2:
        raise NeuroglotError(f"The samples are of {', '.join(samples.languages)}; they need {to} and one other.")
    return samples.states, samples.languages.index(tag)


def _difference(states: Tensor, place: int, fitted: dict[Any, Any]) -> Vectors:
    if "means" not in fitted:
        fitted["means"] = torch.stack([layer.to(torch.float64).mean(1) for layer in states.unbind(2)], 1)
    means = fitted["means"]
    others = [other for other in range(len(means)) if other != place]
    difference: Tensor = means[place] - means[others].mean(0)
    return difference


def _along(weights: Tensor, difference: Tensor) -> Vectors:
    """The part of the difference that lies along the weights, layer by layer; 0 where there are none."""
    length = weights.square().sum(1, keepdim=True)
    share = (weights * difference).sum(1, keepdim=True) / length
    return torch.where(length > 0, share * weights, 0.0)
