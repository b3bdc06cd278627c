"""Models whose layers have different numbers of neurons, which `prune` writes and transformers has no word for.

Their `config.json` says how many each layer has, under `neuroglot_widths`, and under `neuroglot_biases` whether the
down-projections have biases that their architecture has no word for. They are opened as their own architecture,
narrowed before the weights are read. Of a native mixture of experts `neuroglot_experts` says how many
each layer that has some has, and how wide they are. Plain transformers refuses them, as the widths do not fit.
"""

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import decoder_config
from neuroglot.models.architecture.families import declared
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.find import (
    auto_class,
    check_config,
    find_ffns,
    mixtures_alone,
    without_empty_warnings,
)
from neuroglot.models.architecture.narrowing import narrow as narrow_experts

__all__ = [
    "BIASES",
    "EXPERTS",
    "WIDTHS",
    "can_be_narrowed",
    "check_kind",
    "narrowed",
    "opener",
    "width_name",
    "without_weights",
]

WIDTHS = "neuroglot_widths"
BIASES = "neuroglot_biases"
EXPERTS = "neuroglot_experts"


def opener(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The class whose `from_pretrained` opens this checkpoint: the usual one, unless its layers differ in width."""
    config = check_kind(path, revision, trust_remote_code)
    usual = auto_class(config)
    known = type(config) in usual._model_mapping
    check_config(config, path)  # before weights are fetched from the hub, or read
    own = None
    if trust_remote_code and not known and usual.__name__ in getattr(config, "auto_map", {}):
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        own = get_class_from_dynamic_module(config.auto_map[usual.__name__], path, revision=revision)
    return narrowed(usual, config, own)


def can_be_narrowed(network: Any) -> bool:
    """Whether layers of other widths can be opened: they are narrowed, and so must be found, without weights.

    A class of one's own must be one that transformers can find: registered, or saved with its code.
    """
    kind = type(network.config)
    brings_code = hasattr(network.config, "auto_map") or getattr(type(network), "_auto_class", None)
    if kind not in auto_class(network.config)._model_mapping and not brings_code:
        return False  # `load_model` knows no class for it
    if declared(decoder_config(network.config).model_type) is not None:
        return True
    with suppress(Exception), torch.device("meta"):  # an architecture may raise anything without weights
        find_ffns(_made(network, copy.deepcopy(network.config)))
        return True
    return False


def _made(network: Any, config: Any) -> Any:
    """A network of the same class from a configuration that was copied."""
    for part in (config, decoder_config(config)):
        # saving writes the type of its numbers as a word, from which Apertus cannot be made
        if isinstance(getattr(part, "dtype", None), str):
            part.dtype = getattr(torch, part.dtype)
    return type(network)(config)


def width_name(network: Any, ffns: Sequence[FFN], width: int) -> str:
    """The config's name for the neurons of every layer, such that plain transformers makes layers of this width.

    A declared family names it. In another each name that holds the present width is tried: with the wanted one in its
    place, the network that is made must have these layers, and all its other weights as they are.

    Returns:
        It; empty where there is none.
    """
    config, said = decoder_config(network.config), ffns[0].layout.width
    if len({ffn.neurons for ffn in ffns}) > 1 or hasattr(config, said):
        return said
    names: list[str] = [
        name for name, value in config.to_dict().items() if type(value) is int and value == ffns[0].neurons
    ]
    parts = {id(part) for ffn in ffns for part in ffn.projections}
    beside = {
        f"{name}.{weight}": value.shape
        for name, module in network.named_modules()
        if id(module) not in parts
        for weight, value in module.named_parameters(recurse=False)
    }
    for name in names:
        other = copy.deepcopy(network.config)
        # an architecture may raise anything at a size that it does not take
        with suppress(Exception), torch.device("meta"):
            setattr(decoder_config(other), name, width)
            made = _made(network, other)
            shapes = {weight: value.shape for weight, value in made.named_parameters(remove_duplicate=False)}
            same = all(shapes.get(weight) == shape for weight, shape in beside.items())
            if same and [ffn.neurons for ffn in find_ffns(made)] == [width] * len(ffns):
                return name
    return ""


def check_kind(path: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The configuration of a checkpoint.

    Raises:
        NeuroglotError: its type is one that the transformers which are installed have no word of.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        return transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except ValueError as error:
        said, _ = transformers.PretrainedConfig.get_config_dict(path, revision=revision)
        kind = said.get("model_type")
        if kind is None or kind in CONFIG_MAPPING or "auto_map" in said:
            raise
        raise NeuroglotError(
            f"{path} is of type {kind}, which transformers {transformers.__version__} does not know; upgrade "
            "transformers, or see docs/supported.md for what can be used."
        ) from error


def without_weights(config: Any, **how: Any) -> Any:
    """The network of a configuration, whose weights have shapes only."""
    usual = auto_class(config)
    kind = narrowed(usual, config)
    make = kind.from_config if kind is usual else kind._from_config
    with torch.device("meta"), without_empty_warnings():
        return make(config, **how)


def narrowed(usual: Any, config: Any, own: Any = None) -> Any:
    """The class that makes a network of a config: the usual one, unless its layers differ in width.

    Args:
        usual: of transformers' classes that choose by a config.
        config: of the checkpoint.
        own: the class of a checkpoint that brings its own code.
    """
    if all(getattr(decoder_config(config), name, None) is None for name in (WIDTHS, EXPERTS)):
        return usual
    architecture: Any = own or usual._model_mapping[type(config)]

    def narrow(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        architecture.__init__(self, config, *args, **kwargs)
        said = decoder_config(self.config)
        sizes = getattr(said, EXPERTS, None) or ()
        for mixture, (count, width) in zip(mixtures_alone(self) if sizes else (), sizes, strict=True):
            narrow_experts(mixture, torch.arange(count), torch.arange(width).expand(count, width))
        widths = getattr(said, WIDTHS, None) or ()
        for ffn, width in zip(find_ffns(self) if widths else (), widths, strict=True):
            ffn.keep(torch.arange(width))
            down: Any = ffn.down
            if getattr(said, BIASES, False) and down.bias is None:
                down.bias = torch.nn.Parameter(torch.zeros_like(ffn.down_columns[:, 0]))

    return type(architecture.__name__, (architecture,), {"__init__": narrow, "__module__": architecture.__module__})
