"""Models whose layers have different numbers of neurons, which `prune` writes and transformers has no word for.

Their `config.json` says how many each layer has, under `neuroglot_widths`, and under `neuroglot_biases` whether the
down-projections have biases that their architecture has no word for. They are opened as their own architecture,
narrowed before the weights are read. Plain transformers refuses them, as the widths do not fit.
"""

from pathlib import Path
from typing import Any

import torch

from neuroglot.models.architecture.body import decoder_config
from neuroglot.models.architecture.families import declared
from neuroglot.models.architecture.find import auto_class, check_config, find_ffns

__all__ = ["BIASES", "WIDTHS", "narrowed", "opener", "without_weights"]

WIDTHS = "neuroglot_widths"
BIASES = "neuroglot_biases"


def opener(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The class whose `from_pretrained` opens this checkpoint: the usual one, unless its layers differ in width."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    usual = auto_class(config)
    known = type(config) in usual._model_mapping
    if not (known and Path(path).exists() and declared(decoder_config(config).model_type)):
        check_config(config, path)  # before weights are fetched from the hub, or read
    return narrowed(usual, config)


def without_weights(config: Any, **how: Any) -> Any:
    """The network of a configuration, whose weights have shapes only."""
    usual = auto_class(config)
    kind = narrowed(usual, config)
    make = kind.from_config if kind is usual else kind._from_config
    with torch.device("meta"):
        return make(config, **how)


def narrowed(usual: Any, config: Any) -> Any:
    """The class that makes a network of a config: the usual one, unless its layers differ in width."""
    if getattr(decoder_config(config), WIDTHS, None) is None:
        return usual
    architecture: Any = usual._model_mapping[type(config)]

    def narrow(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        architecture.__init__(self, config, *args, **kwargs)
        said = decoder_config(self.config)
        for ffn, width in zip(find_ffns(self), getattr(said, WIDTHS), strict=True):
            ffn.keep(torch.arange(width))
            down: Any = ffn.down
            if getattr(said, BIASES, False) and down.bias is None:
                down.bias = torch.nn.Parameter(torch.zeros_like(ffn.down_columns[:, 0]))

    return type(architecture.__name__, (architecture,), {"__init__": narrow, "__module__": architecture.__module__})
