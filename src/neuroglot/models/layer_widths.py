"""Models whose layers have different numbers of neurons, which `prune` writes and transformers has no word for.

Their `config.json` says how many each layer has, under `neuroglot_widths`, and under `neuroglot_biases` whether the
down-projections have biases that their architecture has no word for. They are opened as their own architecture,
narrowed before the weights are read. Plain transformers refuses them, as the widths do not fit.
"""

from pathlib import Path
from typing import Any

import torch

from neuroglot.models.architecture.families import declared
from neuroglot.models.architecture.find import check_config, find_ffns

__all__ = ["BIASES", "WIDTHS", "narrowed", "opener"]

WIDTHS = "neuroglot_widths"
BIASES = "neuroglot_biases"


def opener(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The class whose `from_pretrained` opens this checkpoint: the usual one, unless its layers differ in width."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    known = type(config) in AutoModelForCausalLM._model_mapping
    if not (known and Path(path).exists() and declared(config.get_text_config(decoder=True).model_type)):
        check_config(config, path)  # before weights are fetched from the hub, or read
    return narrowed(AutoModelForCausalLM, config)


def narrowed(usual: Any, config: Any) -> Any:
    """The class that makes a network of a config: the usual one, unless its layers differ in width."""
    if getattr(config.get_text_config(decoder=True), WIDTHS, None) is None:
        return usual
    architecture: Any = usual._model_mapping[type(config)]

    def narrow(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        architecture.__init__(self, config, *args, **kwargs)
        said = self.config.get_text_config(decoder=True)
        for ffn, width in zip(find_ffns(self), getattr(said, WIDTHS), strict=True):
            ffn.keep(torch.arange(width))
            down: Any = ffn.down
            if getattr(said, BIASES, False) and down.bias is None:
                down.bias = torch.nn.Parameter(torch.zeros_like(ffn.down_columns[:, 0]))

    return type(architecture.__name__, (architecture,), {"__init__": narrow, "__module__": architecture.__module__})
