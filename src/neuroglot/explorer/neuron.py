"""A neuron's page: how active it is by language, which sets hold it, what is like it, and what excites it most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

import torch

from neuroglot.artifacts.examples import Context, context
from neuroglot.explorer.neuron_map import Atlas
from neuroglot.explorer.run_view import drawn
from neuroglot.stats import entropy, wilson

__all__ = ["Neuron", "Words", "describe_neuron", "in_words", "neuron_page"]

NEAREST = 8
CUT = "\ufffd"  # what a decoder gives for part of a character


@dataclass(frozen=True)
class Words:
    """An example in words: the token, and what is around it."""

    value: float
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class Neuron:
    """What is known of a neuron."""

    layer: int
    """From 1."""
    number: int
    """From 0."""
    rows: list[tuple[str, int, float, float, float]]
    """For each language: tokens, probability, and its 95 % interval."""
    entropy: float
    """Of the probabilities over languages, in nats; NaN if it is active nowhere."""
    highest: float
    """The entropy of a neuron that is alike in all languages."""
    sets: dict[str, list[str]]
    """Method → the languages whose set holds it."""
    expert: int | None
    """Its expert, where neurons were grouped."""
    nearest: list[tuple[int, int, float]]
    """Layer from 1, neuron, and distance of the neurons whose probabilities are most alike."""
    examples: dict[str, list[Words]] = field(default_factory=dict)
    """Language → its most exciting tokens, in context."""
    undetermined: str = ""
    """Why there are no examples."""


def describe_neuron(atlas: Atlas, layer: int, number: int) -> Neuron:
    """Everything about a neuron; layer and number from 0."""
    recording, run_view = atlas.recording, atlas.run_view
    active, tokens = recording.active[layer, number], recording.tokens
    columns = (tokens, active / tokens, *(end.clamp(0, 1) for end in wilson(active, tokens)))
    rows = list(zip(recording.languages, *(column.tolist() for column in columns), strict=True))
    own = atlas.probabilities[layer, number]
    apart = (atlas.probabilities - own).square().sum(-1).masked_fill(~recording.exists, torch.inf)
    apart[layer, number] = torch.inf
    least = apart.flatten().topk(min(NEAREST, sum(recording.widths) - 1), largest=False)
    nearest = [
        (index // recording.neurons + 1, index % recording.neurons, math.sqrt(value))
        for value, index in zip(least.values.tolist(), least.indices.tolist(), strict=True)
    ]
    sets = {
        method: [tag for tag in found.languages if bool(found[tag][layer, number])]
        for method, found in run_view.neurons.items()
    }
    expert, run = None, run_view.run
    if run.manifest.experts is not None and (run.path / "experts" / "partition.safetensors").is_file():
        expert = int(run.partition.labels[layer, number])
    examples, undetermined = _examples(atlas, layer, number)
    return Neuron(
        layer=layer + 1,
        number=number,
        rows=rows,
        entropy=float(entropy(own[None])[0]) if float(own.sum()) > 0 else float("nan"),
        highest=math.log(len(rows)),
        sets=sets,
        expert=expert,
        nearest=nearest,
        examples=examples,
        undetermined=undetermined,
    )


def _examples(atlas: Atlas, layer: int, number: int) -> tuple[dict[str, list[Words]], str]:
    kept = atlas.recording.examples
    if kept is None:
        return {}, "This run kept no examples; record with --examples 5 to see the tokens that excite a neuron most."
    tokenizer = atlas.run_view.tokenizer
    if tokenizer is None:
        return {}, "The model’s tokenizer cannot be opened, so the examples have no words."
    directory = atlas.run_view.run.path / "recording"
    found: dict[str, list[Words]] = {}
    for k, tag in enumerate(atlas.languages):
        words = []
        for example in kept.of(k, layer, number):
            around = context(directory, example, kept.text)
            if around is not None:
                words.append(Words(example.value, *in_words(tokenizer, around)))
        found[tag] = words
    if not any(found.values()):
        return {}, "It was never active, or the text it was recorded on is gone."
    return found, ""


def in_words(tokenizer: Any, around: Context) -> tuple[str, str, str]:
    """What is before the token, the token, and what is after it; a token that is part of a character is all of it."""
    whole = tokenizer.decode([*around.before, around.token, *around.after])
    before = commonprefix([tokenizer.decode(around.before).rstrip(CUT), whole])  # noqa: RUF071 (texts, not paths)
    until = tokenizer.decode([*around.before, around.token])
    if not until.endswith(CUT) and whole.startswith(until):
        after = whole[len(until) :]
    else:
        after = tokenizer.decode(around.after).lstrip(CUT)
        after = after if whole.endswith(after) else ""
    token = whole[len(before) : len(whole) - len(after)]
    return before.lstrip(CUT), token, after.rstrip(CUT)


def neuron_page(neuron: Neuron, others: Sequence[int] = ()) -> str:
    """The page, as HTML; what comes from text is escaped.

    Args:
        neuron: what is known of it.
        others: neurons of the same cell, to go on to.
    """
    return drawn("neuron.html", neuron=neuron, others=[number for number in others if number != neuron.number][:12])
