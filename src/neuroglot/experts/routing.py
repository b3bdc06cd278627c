"""How differently two languages are routed through a native mixture of experts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.artifacts.recording import FOLDS, ROUTED, Recording
from neuroglot.errors import NeuroglotError
from neuroglot.stats import bootstrap_weights
from neuroglot.storage.given import takes_numbers

__all__ = ["routing_divergence", "routing_divergence_interval", "routing_layers", "routing_shares"]

Divergence = Float64[Tensor, "routers languages languages"]


def routing_layers(recording: Recording) -> list[int]:
    """The layers that have a router, from 0.

    Raises:
        NeuroglotError: it is no recording of a native mixture of experts.
    """
    return recording.sum(ROUTED).sum((1, 2)).nonzero().flatten().tolist()


def routing_shares(recording: Recording) -> Float64[Tensor, "routers experts languages"]:
    """Of all choices that the router of a layer made on a language's tokens, the share that fell on each expert.

    Layers are those of `routing_layers`; the shares of a layer and language add up to 1.

    Raises:
        NeuroglotError: it is no recording of a native mixture of experts.
    """
    return _shares(recording.sum(ROUTED)[routing_layers(recording)].to(torch.float64))


def _shares(routed: Float64[Tensor, "*draws experts languages"]) -> Float64[Tensor, "*draws experts languages"]:
    return routed / routed.sum(-2, keepdim=True).clamp_min(1)


def _divergence(shares: Float64[Tensor, "*draws experts languages"]) -> Float64[Tensor, "*draws languages languages"]:
    """Jensen–Shannon divergence in bits: 0 for the same shares, 1 where no expert serves both languages."""
    one, two = shares.unsqueeze(-1), shares.unsqueeze(-2)
    middle = (one + two) / 2
    each = [torch.xlogy(side, side) - torch.xlogy(side, middle) for side in (one, two)]
    both: Tensor = (each[0] + each[1]).sum(-3) / 2 / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return both.clamp(0, 1)


def routing_divergence(recording: Recording) -> Divergence:
    """The Jensen–Shannon divergence, in bits, of two languages' routing shares, by layer.

    Layers are those of `routing_layers`: dense ones have none.

    Raises:
        NeuroglotError: it is no recording of a native mixture of experts.
    """
    return _divergence(routing_shares(recording))


@takes_numbers
def routing_divergence_interval(
    parts: Sequence[Recording] | Recording, *, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[Divergence, Divergence]:
    """Where `routing_divergence` of a recording, or of the sum of some, lies, by a bootstrap over blocks.

    Tokens of one text are routed alike, so groups of blocks are what is drawn again, never single tokens: those of a
    recording, each language's by themselves; or whole recordings.

    Args:
        parts: a recording; or recordings of disjoint texts of like size, each in all languages.
        level: of the percentile interval.
        draws: how often they are drawn, with replacement.
        seed: of the draws.

    Raises:
        NeuroglotError: there are fewer than two groups of a language's blocks, or the recordings are not of one model
            and the same languages.
    """
    if not 0 < level < 1 or draws < 1:
        raise NeuroglotError("level must be above 0 and below 1, and draws at least 1.")
    counts = _folds(parts) if isinstance(parts, Recording) else [_of_parts(parts)]
    divergences = []
    weights = [
        bootstrap_weights(some.shape[-2], draws, seed + k)[1:].to(torch.float64) for k, some in enumerate(counts)
    ]
    for draw in range(draws):
        drawn = [torch.einsum("p,lepk->lek", weight[draw], some) for weight, some in zip(weights, counts, strict=True)]
        divergences.append(_divergence(_shares(torch.cat(drawn, -1))))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.stack(divergences).quantile(ends, dim=0)
    return low, high


def _folds(recording: Recording) -> list[Float64[Tensor, "routers experts folds 1"]]:
    """Each language's counts in the groups of its blocks."""
    layers, result = routing_layers(recording), []
    if FOLDS not in recording.sums:
        raise NeuroglotError("This recording has no counts by groups of blocks; record again for an interval.")
    for tag, counts in zip(recording.languages, recording.sum(FOLDS)[layers].unbind(-1), strict=True):
        read = counts.sum((0, 1)).nonzero().flatten()
        if len(read) < 2:
            raise NeuroglotError(f"An interval needs at least two blocks of {tag}; record more, or smaller ones.")
        result.append(counts[:, :, read, None].to(torch.float64))
    return result


def _of_parts(parts: Sequence[Recording]) -> Float64[Tensor, "routers experts parts languages"]:
    """The counts of recordings, side by side."""
    if len(parts) < 2:
        raise NeuroglotError("An interval needs at least two recordings of disjoint texts; record in parts.")
    layers = routing_layers(Recording.merge(parts))  # which says if they are not of one model
    if any(part.languages != parts[0].languages for part in parts):
        raise NeuroglotError("The recordings differ in their languages; select the same ones of each.")
    return torch.stack([part.sum(ROUTED)[layers].to(torch.float64) for part in parts], 2)
