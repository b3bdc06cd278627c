"""A recipe from a recording: how a language is raised and another switched off."""

from collections.abc import Sequence
from typing import Literal

import torch

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.edit.interventions import Add, Deactivate, Intervention, Raise, Replace, Scale
from neuroglot.edit.positions import When
from neuroglot.edit.recipes import Recipe
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.architecture.sites import Site

__all__ = ["METHODS", "Method", "layer_numbers", "steer"]

Method = Literal["raise", "replace", "add", "difference", "scale"]


METHODS: tuple[Method, ...] = ("raise", "replace", "add", "difference", "scale")


def layer_numbers(text: str | None, layers: int) -> tuple[int, ...] | None:
    """Layers from 0, from `1-3,16-18`, which counts from 1.

    Raises:
        NeuroglotError: it is no such list, or the model has no such layer.
    """
    if text is None:
        return None
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if (
            not (first.isdecimal() and (last.isdecimal() or not last))
            or not 1 <= int(first) <= int(last or first) <= layers
        ):
            raise NeuroglotError(f"layers takes numbers from 1 to {layers} such as 1-3,16, not {text!r}.")
        numbers.update(range(int(first) - 1, int(last or first)))
    return tuple(sorted(numbers))


def steer(
    recording: Recording,
    neurons: NeuronSet,
    to: str | None,
    *,
    source: str | None = None,
    method: Method = "replace",
    site: Site = "activation",
    strength: float = 1.0,
    layers: Sequence[int] | None = None,
    when: When = "both",
) -> Recipe:
    """A recipe that has a model answer in a language.

    A language may be named with another region or script than its neurons are: those of `zh-CN` are of `zh`. First the
    source language's neurons are switched off, if one is named (those that are the target's too are left to
    the target), then the target's are changed by their values in the recording.

    Args:
        recording: of the model; its means are the values.
        neurons: whose.
        to: the target language; None only switches the source off.
        source: the language to switch off.
        method: `raise` to the target's mean what is below it; `replace` by it; `add` it; add its `difference` from the
            mean of the other languages; or `scale` what is there.
        site: where; the mean of the same site is taken.
        strength: times the mean or the difference; the factor itself for `scale`.
        layers: from 0; all by default.
        when: on the tokens of the prompt, those generated, or both.

    Raises:
        NeuroglotError: a language is not in the recording or has no neurons; the recording lacks the site, names no
            model or is of another shape; a setting is not one of those named.
    """
    if method not in METHODS:
        raise NeuroglotError(f"The method is {', '.join(METHODS)}, not {method!r}.")
    if to is None and source is None:
        raise NeuroglotError("Name a language to steer to, or one to switch off.")
    if recording.provenance is None:
        raise NeuroglotError("This recording names no model, so a recipe could not say whose neurons it changes.")
    if neurons.shape != (recording.layers, recording.neurons):
        raise NeuroglotError(
            f"The neurons are of {neurons.shape[0]} × {neurons.shape[1]}, and the recording of {recording.layers} × "
            f"{recording.neurons}; take both from one run."
        )
    chosen = torch.zeros(neurons.shape, dtype=torch.bool)
    within = range(recording.layers) if layers is None else layers
    if any(layer not in range(recording.layers) for layer in within):
        raise NeuroglotError(f"Layers are numbered from 0 to {recording.layers - 1} here.")
    chosen[list(within)] = True
    steps: list[Intervention] = []
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
    about = {
        "model": recording.provenance.model,
        "to": None if to is None else language_tag(to),
        "source": None if source is None else language_tag(source),
        "method": method,
        "site": site,
        "strength": strength,
        "layers": None if layers is None else list(layers),
        "when": when,
        "neurons": neurons.about.get("method"),
    }
    return Recipe(steps, recording.provenance.fingerprint, about)


def _as_tagged(language: str, tags: Sequence[str]) -> str:
    """The tag that a language has among these; itself if it has none, which is then refused where it is looked up."""
    return closest(language, tags) or language
