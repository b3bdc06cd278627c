"""Random neurons: the baseline that every effect is shown beside."""

import hashlib

import torch
from jaxtyping import Int64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.widths import exists, stated
from neuroglot.errors import NeuroglotError
from neuroglot.identify.registry import method
from neuroglot.identify.selection import NEVER, Evidence, Scores
from neuroglot.storage.given import takes_numbers

__all__ = ["generator_of", "random"]


@takes_numbers
def random(like: Recording | NeuronSet, *, top_fraction: float = 0.01, seed: int = 0) -> NeuronSet:
    """Random selection (Tang et al. 2024, §3.1 e): neurons drawn evenly from all layers, without replacement.

    Args:
        like: a NeuronSet, of which each language's number of neurons is copied; or a Recording, of which each language
            gets `top_fraction` of all neurons.
        top_fraction: used with a Recording.
        seed: of the draw. A language's draw depends on the seed and its tag, not on the other languages.

    Raises:
        NeuroglotError: `top_fraction` is out of range.
    """
    if not 0 < top_fraction <= 1:
        raise NeuroglotError(f"top_fraction must be above 0 and at most 1, not {top_fraction}.")
    if isinstance(like, NeuronSet):
        sizes = like.sizes()
    else:
        sizes = dict.fromkeys(like.languages, round(top_fraction * sum(like.widths)))
    there = exists(like.widths)
    places = there.flatten().nonzero().flatten()
    mask = torch.zeros(len(sizes), there.numel(), dtype=torch.bool)
    for row, (tag, size) in zip(mask, sizes.items(), strict=True):
        row[places[_order(len(places), tag, seed)[:size]]] = True
    about = {"method": "random", "seed": seed, **stated(like.widths)}
    about |= {} if like.units == "neurons" else {"units": like.units}
    return NeuronSet(mask.view(-1, *there.shape), tuple(sizes), about)


def generator_of(language: str, seed: int) -> torch.Generator:
    """Random numbers for one language, which do not depend on what other languages there are."""
    key = hashlib.sha256(f"{seed} {language}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))


def _order(neurons: int, language: str, seed: int) -> Int64[Tensor, " neurons"]:
    """A language's random order of all neurons. Taking its first is drawing without replacement."""
    return torch.randperm(neurons, generator=generator_of(language, seed))


@method("random", needs=("seed",))
def _scores(evidence: Evidence) -> Scores:
    """A random order, each language's own."""
    there = evidence.recording.exists
    scores = torch.full((len(evidence.recording.languages), *there.shape), NEVER, dtype=torch.float64)
    for row, tag in zip(scores, evidence.recording.languages, strict=True):
        row[there] = -_order(int(there.sum()), tag, evidence.seed).argsort().double()
    return scores
