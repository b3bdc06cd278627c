"""Attention with fewer heads, as plain weights: where a config can say how many there are, and how wide one is.

A config has one number of query heads and one of key-value heads for all layers. So each layer keeps equally many, and
each key-value head as many query heads; which ones may differ.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.attention import Attention
from neuroglot.models.architecture.body import decoder_config
from neuroglot.models.architecture.ffn import narrow_projection
from neuroglot.models.architecture.undo import configure, taking_back

__all__ = ["HeadGroups", "check_heads", "head_groups", "keep_heads", "kept_groups"]

Mask = Bool[Tensor, "attentions heads"]
QUERY, SHARED = "q_proj", ("k_proj", "v_proj")
"""What attentions with a projection each call them."""


@dataclass(frozen=True)
class HeadGroups:
    """How many heads an attention has.

    Attributes:
        groups: key-value heads.
        each: query heads that share one of them.
        width: of a head.
    """

    groups: int
    each: int
    width: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.groups * self.each

    def smaller(self) -> list["HeadGroups"]:
        """Fewer query heads a key-value head, or fewer key-value heads with all of their query heads."""
        fewer = [HeadGroups(self.groups, each, self.width) for each in range(self.each - 1, 0, -1)]
        return fewer + [HeadGroups(groups, self.each, self.width) for groups in range(self.groups - 1, 0, -1)]

    def parameters(self, width: int) -> int:
        """Weights of the projections of an attention in a stream of a width; biases are not counted."""
        return 2 * (self.heads + self.groups) * self.width * width


def head_groups(network: Any, attentions: Sequence[Attention]) -> HeadGroups | None:
    """The heads that every attention has; None where they differ or none can be taken out as plain weights.

    It is proved, without weights, on a model with one key-value head of one query head: its other weights must be as
    they are.
    """
    first = attentions[0]
    found = {(each.heads, each.width) for each in attentions}
    if len(found) != 1 or len({id(each.projection) for each in attentions}) != len(attentions):
        return None
    parents = [_parent(network, each) for each in attentions]
    rows = {
        name: {getattr(getattr(parent, name, None), "out_features", 0) for parent in parents}
        for name in (QUERY, *SHARED)
    }
    keys = rows[SHARED[0]]
    if rows[QUERY] != {first.heads * first.width} or rows[SHARED[1]] != keys or len(keys) != 1:
        return None
    groups = keys.pop() // first.width
    in_order = torch.arange(first.heads * first.width).view(first.heads, first.width)
    if not groups or first.heads % groups or not all(torch.equal(each.columns, in_order) for each in attentions):
        return None
    whole = HeadGroups(groups, first.heads // groups, first.width)
    least = HeadGroups(1, 1, first.width)
    return whole if whole == least or _made(network, attentions, whole, least) is not None else None


def kept_groups(mask: Mask, whole: HeadGroups) -> HeadGroups:
    """How many heads a mask keeps of each attention.

    Raises:
        NeuroglotError: it keeps none, or not as many everywhere.
    """
    counts = mask.view(len(mask), whole.groups, whole.each).sum(2)
    groups = {int(count) for count in (counts > 0).sum(1)}
    each = {int(count) for count in counts[counts > 0]}
    if len(groups) != 1 or len(each) != 1:
        raise NeuroglotError(
            "A config has one number of heads for all layers: keep as many key-value heads in every layer, and as many "
            f"query heads of each (of {whole.groups} and {whole.each})."
        )
    return HeadGroups(groups.pop(), each.pop(), whole.width)


def check_heads(network: Any, attentions: Sequence[Attention], mask: Mask) -> tuple[HeadGroups, HeadGroups]:
    """The heads that are there, and those that a mask keeps.

    Raises:
        NeuroglotError: not as many stay everywhere, or this architecture's config cannot say how many do.
    """
    whole = head_groups(network, attentions)
    if whole is None:
        raise NeuroglotError(
            f"The heads of {decoder_config(network.config).model_type} cannot be taken out: its config cannot say "
            "how many there are, or one projection holds queries, keys and values; ablate them instead."
        )
    return whole, kept_groups(mask, whole)


def keep_heads(network: Any, attentions: Sequence[Attention], mask: Mask) -> Callable[[], None]:
    """Keep these heads only, and give a function that puts all of them back.

    Call it before layers are narrowed otherwise.

    Args:
        network: whose config is changed, too.
        attentions: all of its.
        mask: the query heads that stay; a key-value head goes with the last of its own.

    Raises:
        NeuroglotError: not as many stay everywhere, or this architecture's config cannot say how many do.
    """
    whole, kept = check_heads(network, attentions, mask)
    if kept == whole:
        return lambda: None
    made = _made(network, attentions, whole, kept)
    assert made is not None
    undo: list[Callable[[], None]] = []
    modules = dict(made.named_modules())
    names = {id(module): name for name, module in network.named_modules()}
    for attention, stays in zip(attentions, mask, strict=True):
        parent = _parent(network, attention)
        groups = stays.view(whole.groups, whole.each).any(1)
        undo.append(narrow_projection(attention.projection, _columns(stays, whole.width), "in"))
        for name, some in ((QUERY, stays), *((shared, groups) for shared in SHARED)):
            undo.append(narrow_projection(getattr(parent, name), _columns(some, whole.width), "out"))
        for name, value in vars(modules[names[id(parent)]]).items():  # such as num_key_value_groups
            if type(value) is int and getattr(parent, name) != value:
                undo.append(configure(parent, name, value))
        undo.append(configure(attention, "columns", torch.arange(kept.heads * kept.width).view(kept.heads, kept.width)))
        undo.append(configure(attention, "heads", kept.heads))
    for name, value in _said(network.config, kept).items():
        undo.append(configure(decoder_config(network.config), name, value))

    return taking_back(undo)


def _made(network: Any, attentions: Sequence[Attention], whole: HeadGroups, kept: HeadGroups) -> Any:
    """The network of so many heads, without weights; None where it is no such one, or is otherwise different."""
    config = copy.deepcopy(network.config)
    for name, value in _said(config, kept).items():
        setattr(decoder_config(config), name, value)
    # an architecture may raise anything at a size that it does not take
    with suppress(Exception), torch.device("meta"):
        made = type(network)(config)
        names = {id(module): name for name, module in network.named_modules()}
        wanted = {name: weight.shape for name, weight in network.named_parameters()}
        for attention in attentions:
            place = names[id(_parent(network, attention))]
            sizes = {QUERY: kept.heads, **dict.fromkeys(SHARED, kept.groups)}
            for part, count in sizes.items():
                for weight in ("weight", "bias"):
                    if (name := f"{place}.{part}.{weight}") in wanted:
                        wanted[name] = torch.Size([count * kept.width, *wanted[name][1:]])
            name = f"{names[id(attention.projection)]}.weight"
            wanted[name] = torch.Size([wanted[name][0], kept.heads * kept.width])
        same = {name: weight.shape for name, weight in made.named_parameters()} == wanted
        buffers = [{name: each.shape for name, each in some.named_buffers()} for some in (network, made)]
        modules = dict(made.named_modules())
        parents = [_parent(network, attention) for attention in attentions]
        # such as a scale that is made of the stream's width over the heads
        same = same and all(_numbers(parent) == _numbers(modules[names[id(parent)]]) for parent in parents)
        if same and buffers[0] == buffers[1]:
            return made
    return None


def _numbers(module: nn.Module) -> dict[str, float]:
    """The settings that are no whole numbers."""
    return {name: value for name, value in vars(module).items() if type(value) is float}


def _said(config: Any, kept: HeadGroups) -> dict[str, int]:
    """What a config says of heads."""
    part = decoder_config(config)
    said = {"num_attention_heads": kept.heads, "head_dim": kept.width}
    if getattr(part, "num_key_value_heads", None) is not None:
        said["num_key_value_heads"] = kept.groups
    return said


def _parent(network: nn.Module, attention: Attention) -> nn.Module:
    """The module that holds an attention's projections."""
    name = next(name for name, module in network.named_modules() if module is attention.projection)
    return network.get_submodule(name.rpartition(".")[0])


def _columns(heads: Tensor, width: int) -> Int64[Tensor, " columns"]:
    """The rows or columns of some heads."""
    return heads.repeat_interleave(width).nonzero().flatten()
