"""Biases for down-projections that have none."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuroglot.models.architecture.body import decoder_config, text_config
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.architecture.undo import configure, taking_back
from neuroglot.models.model import Model

__all__ = ["attach", "plain_biases"]

PLAIN = "mlp_bias"
"""What a config of Llama, Granite and their like says of all projections of the FFN."""


def plain_biases(model: Model) -> bool:
    """Whether plain transformers opens this architecture with a bias on every down-projection."""
    if all(getattr(ffn.down, "bias", None) is not None for ffn in model.ffns):
        return True
    if getattr(model.text_config, PLAIN, None) is not False:
        return False
    config = copy.deepcopy(model.network.config)
    setattr(decoder_config(config), PLAIN, True)
    with torch.device("meta"):  # a config may name what its architecture does not read
        network = type(model.network)(config)
    assert text_config(network).mlp_bias
    return all(part.bias is not None for ffn in find_ffns(network) for part in ffn.projections)


def attach(model: Model, gains: Sequence[Float[Tensor, " width"] | None], plain: bool) -> Callable[[], None]:
    """Add these to the down-projections' biases, and give a function that puts all as it was.

    A bias that is not there is made. Where the config speaks of all projections at once (`plain`), the others get
    zeros.
    """
    undo: list[Callable[[], None]] = []
    missing = any(getattr(ffn.down, "bias", None) is None for ffn in model.ffns)
    for ffn, gain in zip(model.ffns, gains, strict=True):
        down: Any = ffn.down
        old = down.bias
        before = torch.zeros_like(ffn.down_columns[:, 0]) if old is None else old.detach()
        undo.append(configure(down, "bias", nn.Parameter(before.clone() if gain is None else before + gain.to(before))))
        for part in ffn.projections if missing and plain else []:
            if part.bias is None:
                weight: Any = part.weight
                undo.append(configure(part, "bias", nn.Parameter(torch.zeros_like(weight[:, 0]))))
    if missing and plain:
        undo.append(configure(model.text_config, PLAIN, True))

    return taking_back(undo)
