"""Which attention heads cost least to lose, and the rest of a layer's attention re-fitted to what all of it gave."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroglot.models.architecture.head_groups import HeadGroups, kept_groups
from neuroglot.models.model import Model
from neuroglot.pruning.compensation import RIDGES, Change, refits
from neuroglot.pruning.moments import moments_by_layer
from neuroglot.pruning.saliences import Surgeon

__all__ = ["HeadCut", "cheapest_heads", "random_heads", "refitted_heads"]

Keep = Bool[Tensor, "attentions heads"]


@dataclass(frozen=True)
class HeadCut:
    """What is left of every attention.

    Attributes:
        keep: the heads that stay.
        changes: what the output projections are given; None for nothing.
    """

    keep: Keep
    changes: Sequence[Change | None] | None = None


@torch.no_grad()
def cheapest_heads(
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    whole: HeadGroups,
    wanted: HeadGroups,
    language: str = "",
    *,
    progress: bool = False,
) -> Keep:
    """The heads to keep: one after another goes that the re-fitted output of its layer misses least.

    Args:
        model: intact.
        blocks: packed text.
        whole: the heads that its attentions have.
        wanted: those that they are to have: fewer of each key-value head, or fewer key-value heads.
        language: of the text.
        progress: show a bar.
    """
    keep = torch.zeros(len(model.attentions), whole.heads, dtype=torch.bool)
    together = 1 if wanted.each < whole.each else whole.each  # heads that go as one
    read = moments_by_layer(model, blocks, language, of="heads", progress=progress)
    for place, (attention, moments) in enumerate(zip(model.attentions, read, strict=True)):
        surgeon = Surgeon(attention.weight, moments, attention.columns.reshape(-1, together * whole.width))
        left = torch.ones(whole.heads // together, dtype=torch.bool)
        for _ in range((whole.heads - wanted.heads) // together):
            costs = surgeon.costs()
            if together == 1:  # of a key-value head that has enough of its own
                enough = left.view(whole.groups, -1).sum(1) > wanted.each
                costs = costs.masked_fill(~enough.repeat_interleave(whole.each), torch.inf)
            going = costs.argmin()[None]
            surgeon.remove(going)
            left[going] = False
        keep[place] = left.repeat_interleave(together)
    return keep


def random_heads(keep: Keep, whole: HeadGroups, seed: int) -> Keep:
    """As many random heads of each layer, as a config can say them."""
    kept = kept_groups(keep, whole)
    generator = torch.Generator().manual_seed(seed)
    groups = torch.rand(len(keep), whole.groups, generator=generator).argsort(1).argsort(1) < kept.groups
    each = torch.rand(len(keep), whole.groups, whole.each, generator=generator).argsort(2).argsort(2) < kept.each
    return (each & groups[:, :, None]).flatten(1)


def refitted_heads(
    model: Model,
    keep: Keep,
    blocks: Int[Tensor, "blocks block"],
    language: str = "",
    *,
    ridges: Sequence[float] = RIDGES,
    progress: bool = False,
) -> HeadCut:
    """The heads that stay, with output projections that give what all heads gave, as nearly as can be.

    Arguments are those of `compensation.refits`; biases change where the projections have some.
    """
    masks = []
    for attention, stays in zip(model.attentions, keep, strict=True):
        mask = torch.zeros(attention.columns.numel(), dtype=torch.bool)
        mask[attention.columns[stays].flatten()] = True
        masks.append(mask)
    biased = all(getattr(attention.projection, "bias", None) is not None for attention in model.attentions)
    weights = [attention.weight for attention in model.attentions]
    return HeadCut(keep, refits(weights, masks, model, blocks, language, "heads", intercept=biased, ridges=ridges,
                                progress=progress))  # fmt: skip
