"""How a number of parameters is shared between vocabulary and neurons, and which neurons a number of them are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.artifacts.moments import Moments, Sketch
from neuroglot.artifacts.widths import padded
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.weights import column_norms
from neuroglot.models.model import Model
from neuroglot.pruning.biases import plain_biases
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import row_parameters

__all__ = ["Split", "check_share", "magnitudes", "neurons_within", "random_like", "splits"]

Keep = Bool[Tensor, "layers neurons"]
SHARES = (1.0, 0.7, 0.5, 0.35)
"""Of the tokens that a text uses: what is tried as a vocabulary where not all of it and all neurons fit."""
FEWEST = 0.1
"""A share of the neurons below which no budget goes."""
STEP = 32  # GGUF quantises so many columns together


@dataclass(frozen=True)
class Split:
    """One way to spend a budget.

    Attributes:
        tokens: at most so many.
        neurons: at most so many, of all layers.
    """

    tokens: int
    neurons: int


def splits(model: Model, share: float, used: int, least: int, language: str) -> list[Split]:
    """The ways to share a budget that are worth measuring; one alone if the text's tokens and all neurons fit.

    Args:
        model: intact.
        share: of its parameters, at most.
        used: tokens that the text uses, with what these need.
        least: tokens that any text needs.
        language: for the refusal.

    Raises:
        NeuroglotError: the share is below what must stay.
    """
    whole = size(model.network)
    total = int(model.exists.sum())
    row, neuron = row_parameters(model), whole.ffn_parameters / total
    fixed = whole.parameters - row * model.vocabulary - whole.ffn_parameters
    room = int(share * whole.parameters) - fixed
    most = min(model.vocabulary, int((room - whole.ffn_parameters) // row))  # with all neurons
    if most >= used:
        return [Split(most, total)]
    room -= _gained(model)
    found = [Split(most, total)] if most >= least else []
    for part in SHARES:
        tokens = max(least, round(part * used))
        neurons = int((room - row * tokens) // neuron)
        if max(most, least) <= tokens and FEWEST * total <= neurons < total:
            found.append(Split(tokens, neurons))
    if not found:
        raise _below(model, share, least, language)
    return sorted(set(found), key=lambda split: -split.tokens)


def check_share(model: Model, share: float, least: int, language: str) -> None:
    """Refuse a share that no text makes possible; that of `splits` may be larger, by what the text uses.

    Arguments are those of `splits`.

    Raises:
        NeuroglotError: it is below what must stay.
    """
    if share < _smallest(model, least):
        raise _below(model, share, least, language)


def _below(model: Model, share: float, least: int, language: str) -> NeuroglotError:
    return NeuroglotError(
        f"{share:.0%} of {model.name} is below what must stay for {language}: attention, the tokens that any text "
        f"needs and a tenth of the neurons are {_smallest(model, least):.1%}."
    )


def _smallest(model: Model, least: int) -> float:
    """The share of the parameters that any text leaves at least."""
    whole = size(model.network)
    fixed = whole.parameters - row_parameters(model) * model.vocabulary - whole.ffn_parameters
    return (fixed + _gained(model) + row_parameters(model) * least + FEWEST * whole.ffn_parameters) / whole.parameters


def _gained(model: Model) -> int:
    """How many parameters the biases have that a re-fit may add."""
    if all(getattr(ffn.down, "bias", None) is not None for ffn in model.ffns):
        return 0
    others = sum(2 * ffn.neurons for ffn in model.ffns) if plain_biases(model) else 0  # the config speaks of all
    return model.layers * model.ffns[0].down_columns.shape[0] + others


def magnitudes(model: Model, moments: Iterable[Moments | Sketch]) -> Tensor:
    """What each neuron writes on a text (L, N): the root mean square of its hidden unit times its column's norm."""
    sizes = [of.squares.sqrt() for of in moments]
    norms = [column_norms(ffn.down_columns, ffn.readable) for ffn in model.ffns]
    return padded([norm * size for norm, size in zip(norms, sizes, strict=True)]).masked_fill(~model.exists, -1.0)


def neurons_within(scores: Tensor, widths: Sequence[int], count: int, *, even: bool) -> Keep:
    """So many neurons of the highest scores: the best of all layers, one a layer at least, or of each layer alike.

    Args:
        scores: (L, N).
        widths: neurons of each layer.
        count: at most so many.
        even: each layer keeps the same share of its neurons: a multiple of 32 of them, where it has more.
    """
    exists = torch.arange(scores.shape[1])[None] < torch.tensor(widths)[:, None]
    scores = scores.double().masked_fill(~exists, -torch.inf)
    if count >= sum(widths):
        return exists
    if even:
        kept = torch.tensor([max(1, count * width // sum(widths)) for width in widths])
        kept = torch.where(kept > STEP, kept // STEP * STEP, kept)
        return (scores.argsort(1, descending=True).argsort(1) < kept[:, None]) & exists
    scores.scatter_(1, scores.argmax(1, keepdim=True), torch.inf)  # a layer keeps one, whatever it writes
    chosen = torch.zeros_like(exists)
    chosen.view(-1)[scores.flatten().topk(count).indices] = True
    return chosen


def random_like(keep: Keep, exists: Keep, seed: int) -> Keep:
    """As many random neurons of each layer."""
    scores = torch.rand(keep.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~exists, -1.0)
    return scores.argsort(1, descending=True).argsort(1) < keep.sum(1, keepdim=True)
