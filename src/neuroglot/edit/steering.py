"""A recipe from a recording: how a language's neurons are raised, another's ablated, or the residual stream moved."""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.artifacts.recording import RESIDUAL, ROUTED, Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.edit.directions import SPARSE, diffmean, lda, probe, sparse_dimensions
from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale, UnitChange
from neuroglot.edit.positions import When, check_when
from neuroglot.edit.recipes import Recipe
from neuroglot.edit.routing import DeactivateExperts, FavourExperts, language_experts
from neuroglot.edit.steering_methods import DIRECTIONS, METHODS, ROUTER, SAMPLED, Direction, Method, Routed
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.names import whole_number

__all__ = ["layer_numbers", "steer"]

LAYERS = 1_000_000
"""More layers than any model has."""


def layer_numbers(text: str | None, layers: int | None) -> tuple[int, ...] | None:
    """Layers from 0, from `1-3,16-18`, which counts from 1; of a model of so many, if that is known.

    Raises:
        NeuroglotError: it is no such list, or the model has no such layer.
    """
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        start, end = whole_number(first), whole_number(last or first)
        if start is None or end is None or not 1 <= start <= end <= (layers or LAYERS):
            upwards = f"to {layers}" if layers else "upwards"
            raise NeuroglotError(f"layers takes numbers from 1 {upwards} such as 1-3,16, not {text[:80]!r}.")
        numbers.update(range(start - 1, end))
    return tuple(sorted(numbers))


@takes_numbers
def steer(
    recording: Recording,
    neurons: NeuronSet | None = None,
    to: str | None = None,
    *,
    source: str | None = None,
    method: Method | Direction | Routed = "replace",
    site: Site = "activation",
    strength: float = 1.0,
    layers: Iterable[int] | int | None = None,
    when: When = "both",
    samples: Samples | None = None,
    dimensions: int | None = None,
    raised: Method = "replace",
    experts: int | None = None,
) -> Recipe:
    """A recipe that has a model answer in a language, by its neurons, a direction of the stream, or its experts.

    A language may be named with another region or script than its neurons are: those of `zh-CN` are of `zh`. First the
    source language's neurons are ablated, if one is named (those that are the target's too are left to the target),
    then the target's are changed by their values in the recording, then the stream.

    Args:
        recording: of the model; its means are the values.
        neurons: whose; a direction needs none. With a direction they are changed as `raised` says, at strength 1 in all
            layers.
        to: the target language; None only switches the source off.
        source: the language whose neurons are ablated.
        method: of neurons: `raise` to the target's mean what is below it; `replace` by it; `add` it; add its
            `difference` from the mean of the other languages; or `scale` what is there. Of the residual stream after a
            layer: add the language's `diffmean` (its mean state less that of the others), the direction of a linear
            `probe` or of `lda` of samples; or set the `sparse` dimensions that differ most to the language's mean. Of a
            native mixture of experts the `router`: a bonus of `strength` on the logits of the target's experts, and a
            source's are taken out of the choice, but for the target's; see `language_experts`.
        site: where neurons are changed; the mean of the same site is taken.
        strength: times the mean, the difference or the direction; the factor itself for `scale`.
        layers: from 0; all by default. For a direction a layer, or a few, in the middle is usual.
        when: on the tokens of the prompt, those generated, or both.
        samples: of the model with their mean states, for `probe` and `lda`.
        dimensions: how many dimensions a layer `sparse` changes (all, where the stream is narrower); by default about
            a tenth, as 400 of 4,096 (Zhong et al. 2025, *Language Lives in Sparse Dimensions*).
        raised: what is done to the neurons when the method is a direction or the router.
        experts: of the `router`, at most so many a layer; by default as many as it chooses for a token.

    Raises:
        NeuroglotError: a language is not in the recording or has no neurons; the recording lacks the site or
            `residual`, names no model or is of another shape; a setting is not one of those named.
    """
    if recording.provenance is None:
        raise NeuroglotError("This recording names no model, so a recipe could not say whose units it changes.")
    layers = _numbers(layers, recording.layers)
    check_when(when)
    if not isfinite(strength):
        raise NeuroglotError(f"strength is a finite number such as 4.0, not {strength}.")
    how = {"layers": layers, "when": when}
    about: dict[str, Any] = {
        "model": recording.provenance.model,
        "to": None if to is None else language_tag(to),
        "source": None,
    }
    about |= {"method": method, "strength": strength, **how}
    steps: list[UnitChange]
    if method == ROUTER:
        steps = _router_steps(recording, to, source, strength, layers, when, experts)
        if neurons is not None:
            steps = _neuron_steps(recording, neurons, to, source, raised, site, 1.0, None, when) + steps
            about |= {"raised": raised}
        else:
            about |= {"source": None if source is None else language_tag(source)}
    elif method not in DIRECTIONS:
        if neurons is None:
            raise NeuroglotError(
                f"{method} changes neurons: give neurons=, or a method of the residual stream: "
                f"{', '.join(DIRECTIONS)}; or {ROUTER}, of a native mixture of experts."
            )
        steps = _neuron_steps(recording, neurons, to, source, method, site, strength, layers, when)
    else:
        if to is None:
            raise NeuroglotError(f"{method} needs a language to steer to.")
        if neurons is None and source is not None:
            raise NeuroglotError("A source language is ablated by its neurons: give neurons=, or leave source out.")
        steps = [_direction_step(recording, to, method, strength, layers, when, samples, dimensions)]
        if neurons is not None:
            steps = _neuron_steps(recording, neurons, to, source, raised, site, 1.0, None, when) + steps
            about |= {"raised": raised}
    if neurons is not None:
        about |= {"source": None if source is None else language_tag(source), "site": site}
        about |= {"neurons": neurons.about.get("method")}
    return Recipe(steps, recording.provenance.fingerprint, about)


def _router_steps(
    recording: Recording,
    to: str | None,
    source: str | None,
    strength: float,
    layers: Sequence[int] | None,
    when: When,
    count: int | None,
) -> list[UnitChange]:
    """What is done to the router: the source's experts are taken out, then the target's favoured."""
    if ROUTED not in recording.sums or recording.experts is None:
        raise NeuroglotError(f"{ROUTER} changes what a router chooses, and this model is dense; steer its neurons.")
    if to is None and source is None:
        raise NeuroglotError("Name a language to steer to, or one whose experts are taken out.")
    within = torch.zeros(recording.layers, dtype=torch.bool)
    within[list(range(recording.layers) if layers is None else layers)] = True
    target = torch.zeros(recording.sum(ROUTED).shape[:2], dtype=torch.bool)
    if to is not None:
        target = language_experts(recording, _as_tagged(to, recording.languages), count) & within[:, None]
        if not bool(target.any()):
            raise NeuroglotError(f"No expert is chosen for {to} more often than for the others in these layers.")
    steps: list[UnitChange] = []
    if source is not None:
        if when != "both":
            raise NeuroglotError("Experts are taken out on all tokens; leave out the source, or say when=both.")
        off = language_experts(recording, _as_tagged(source, recording.languages), count) & within[:, None] & ~target
        steps.append(DeactivateExperts(off))
    if to is not None:
        steps.append(FavourExperts(target, strength=float(strength), when=when))
    return steps


def _direction_step(
    recording: Recording,
    to: str,
    method: str,
    strength: float,
    layers: Sequence[int] | None,
    when: When,
    samples: Samples | None,
    dimensions: int | None,
) -> Intervention:
    """What is done to the residual stream."""
    tag = _as_tagged(to, recording.languages)
    if method in SAMPLED:
        if samples is None:
            raise NeuroglotError(f"{method} is found in samples: give samples=, recorded with states=True.")
        theirs = samples.provenance
        assert recording.provenance is not None
        if theirs is not None and theirs.fingerprint != recording.provenance.fingerprint:
            raise NeuroglotError("The samples are of other weights than the recording; record both with one model.")
        _within((samples.layers, 1), layers)  # refuses layers that are not there
        values = (probe if method == "probe" else lda)(samples, to, layers=layers)
    elif method == "sparse":
        values = recording.language_mean(tag, RESIDUAL)
    else:
        values = diffmean(recording, tag)
    chosen = _within(values.shape, layers)
    if method == "sparse":
        width = values.shape[1]
        count = max(1, round(width * SPARSE)) if dimensions is None else min(dimensions, width)
        chosen &= sparse_dimensions(recording, tag, count)
        return Replace(chosen, values, strength, site="residual", when=when)
    return Add(chosen, values, strength, site="residual", when=when)


def _numbers(layers: Iterable[int] | int | None, depth: int) -> list[int] | None:
    """The layers that are named, from 0.

    Raises:
        NeuroglotError: there is none, one is not there, or they are no numbers of layers but a mask.
    """
    if layers is None:
        return None
    asked = list(layers) if isinstance(layers, Iterable) else [layers]
    if any(isinstance(layer, bool | np.bool) for layer in asked) or any(layer not in range(depth) for layer in asked):
        raise NeuroglotError(f"Layers are numbered from 0 to {depth - 1} here, such as layers=[0]; not {asked!r:.60}.")
    if not asked:
        raise NeuroglotError("layers names no layer, so nothing would change; name one, or leave it out for all.")
    return [int(layer) for layer in asked]


def _within(shape: Sequence[int], layers: Sequence[int] | None) -> Bool[Tensor, "layers units"]:
    """All units of these layers."""
    chosen = torch.zeros(tuple(shape), dtype=torch.bool)
    within = range(shape[0]) if layers is None else layers
    if not len(within):
        raise NeuroglotError("There is no layer to change; name one, or leave layers out for all.")
    if any(layer not in range(shape[0]) for layer in within):
        raise NeuroglotError(f"Layers are numbered from 0 to {shape[0] - 1} here.")
    chosen[list(within)] = True
    return chosen


def _neuron_steps(
    recording: Recording,
    neurons: NeuronSet,
    to: str | None,
    source: str | None,
    method: str,
    site: Site,
    strength: float,
    layers: Sequence[int] | None,
    when: When,
) -> list[UnitChange]:
    """What is done to neurons: the source's ablated, then the target's changed."""
    if method not in METHODS:
        raise NeuroglotError(f"The method is {', '.join((*METHODS, *DIRECTIONS, ROUTER))}, not {method!r}.")
    if site not in ("activation", "hidden"):
        raise NeuroglotError(f"The site of neurons is activation or hidden, not {site!r}.")
    if to is None and source is None:
        raise NeuroglotError("Name a language to steer to, or one to switch off.")
    neurons = checked_set(neurons).of_model(recording)
    chosen = _within(neurons.shape, layers)
    steps: list[UnitChange] = []
    target = torch.zeros_like(chosen)
    if to is not None:
        target = neurons[_as_tagged(to, neurons.languages)] & chosen
        if not bool(target.any()):
            raise NeuroglotError(
                f"These neurons have none for {to} in these layers, so nothing can be raised; identify more, "
                "with a larger top_fraction."
            )
    if source is not None:
        steps.append(
            Deactivate(neurons[_as_tagged(source, neurons.languages)] & chosen & ~target, site=site, when=when)
        )
    if to is not None:
        if method == "scale":
            steps.append(Scale(target, float(strength), site=site, when=when))
        else:
            mean = recording.language_difference if method == "difference" else recording.language_mean
            kind = {"raise": Raise, "replace": Replace}.get(method, Add)
            values = mean(_as_tagged(to, recording.languages), site)
            steps.append(kind(target, values, strength, site=site, when=when))
    return steps


def _as_tagged(language: str, tags: Sequence[str]) -> str:
    """The tag that a language has among these; itself if it has none, which is then refused where it is looked up."""
    return closest(language, tags) or language
