"""The FFNs of a model."""

import copy
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.models.architecture.body import (
    body,
    check_causal,
    decoder_config,
    few_tokens,
    has_encoder,
    last_hidden_states,
    text_config,
)
from neuroglot.models.architecture.discovery import Discovery, discover, layer_of
from neuroglot.models.architecture.expert_weights import fit_a_grouped_product, holds_experts
from neuroglot.models.architecture.families import FAMILIES, Family, declared
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.moe import Mixture

__all__ = [
    "auto_class",
    "check_config",
    "discovered",
    "find_ffns",
    "left_out",
    "mixtures_alone",
    "without_empty_warnings",
]

EXPERTS = ("experts", "block_sparse_moe", "moe", "input_linear")  # what modules of experts are called

_usable: set[str] = set()  # configurations that were looked at

MOST = 500_000_000  # weights of an embedding that is made at random

SUPPORTED = "see docs/supported.md for what can be used"


def find_ffns(network: nn.Module) -> list[FFN]:
    """The FFNs of a Hugging Face causal language model, from the input to the output.

    A declared family's are where its declaration says; others are discovered from a short forward pass. So is what has
    the type of a family that Neuroglot declares and is built in another way.

    Raises:
        NeuroglotError: the architecture is a mixture of experts with code of its own, does not look like the family
            that the user declared, or has no FFN that can be found.
    """
    kind = text_config(network).model_type
    if is_mixture(network):
        return _mixtures(network, kind)
    family = declared(kind)
    if family is None:
        return discovered(network)
    try:
        ffns = _declared(network, family, kind)
    except NeuroglotError:
        if family in FAMILIES:
            return discovered(network)
        raise
    return discovered(network) if family in FAMILIES and _is_foreign(network, ffns) else ffns


def _is_foreign(network: nn.Module, ffns: list[FFN]) -> bool:
    """Whether what holds the parts of an FFN is not transformers' own code, for which the declarations are made."""
    names = {id(module): name for name, module in network.named_modules()}
    holders = {names[id(ffn.down)].rpartition(".")[0] for ffn in ffns} | {names[id(ffn.layer)] for ffn in ffns}
    return any(not type(network.get_submodule(name)).__module__.startswith("transformers.") for name in holders)


def is_mixture(network: nn.Module) -> bool:
    """Whether a network is a native mixture of experts: it has modules of experts, or none at all and says so."""
    if any(name.rpartition(".")[2] in EXPERTS for name, _ in network.named_modules()):
        return True
    config = text_config(network)
    says = any(getattr(config, name, 0) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    return says and not any(True for _ in network.children())


def discovered(network: nn.Module) -> list[FFN]:
    """The FFNs that a short forward pass shows, whatever is declared.

    Raises:
        NeuroglotError: it cannot be run on a few tokens, or there are none.
    """
    found = _discovery(network)
    if not found.layouts:
        kind = text_config(network).model_type
        why = (
            found.doubts[0]
            if found.doubts
            else (
                "no layer multiplies an activation function of one projection into another, so there are no neurons to "
                "record"
            )
        )
        raise NeuroglotError(f"No FFN was found in {kind}: {why}; {SUPPORTED}.")
    return [FFN(layout) for layout in found.layouts]


def left_out(network: nn.Module) -> list[str]:
    """What looks like an FFN of a network that is discovered and was not taken for one, each with the reason."""
    if is_mixture(network) or declared(text_config(network).model_type) is not None:
        return []
    return _discovery(network).doubts


def _discovery(network: nn.Module, several: Collection[nn.Module] = ()) -> Discovery:
    kind = text_config(network).model_type
    training = {module: module.training for module in network.modules()}  # XLM's share a module with other networks
    network.eval()  # one that was made from its configuration alone drops layers at random
    try:
        inside = body(network) if has_encoder(network) else network  # what the encoder computes is no part of it
        return discover(inside, lambda: last_hidden_states(network, few_tokens(network)), several)
    except (NeuroglotError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever an unknown architecture raises when it is given nothing but tokens
        raise NeuroglotError(f"{kind} cannot be run on tokens alone ({first_line(error)}); {SUPPORTED}.") from error
    finally:
        for module, was in training.items():
            module.training = was


def _mixtures(network: Any, kind: str) -> list[FFN]:
    """The layers of a native mixture of experts: mixtures, and dense FFNs where layers have no experts.

    Raises:
        NeuroglotError: it has code of its own, so that not all of its neurons would be seen.
    """
    names = {module: name for name, module in network.named_modules()}
    blocks: dict[nn.Module, tuple[nn.Module, nn.Module]] = {}  # by layer: the experts, and what calls them
    for module, name in names.items():
        if holds_experts(module):
            layer = layer_of(module, names)
            if layer in blocks:
                raise _own_code(kind, name)
            blocks[layer] = module, network.get_submodule(name.rpartition(".")[0])
    if not blocks:
        raise _own_code(kind, next((name for name in names.values() if name.rpartition(".")[2] in EXPERTS), kind))
    if not all(fit_a_grouped_product(module) for module, _ in blocks.values()):
        network.set_experts_implementation("eager")  # one expert after the other, of any width
    stream = text_config(network).hidden_size
    beside: dict[nn.Module, list[FFN]] = {}
    for layout in _discovery(network, blocks).layouts:
        ffn = FFN(layout)
        inside = names[layout.down].removeprefix(names[layout.layer])
        if layout.layer not in blocks or (ffn.down_columns.shape[0] == stream and "att" not in inside):
            beside.setdefault(layout.layer, []).append(ffn)
    layers = [module for module in names if module in blocks or module in beside]
    result: list[FFN] = []
    for layer in layers:
        if layer not in blocks:
            result += beside[layer]
            continue
        mixture = Mixture(layer, blocks[layer][0], beside.get(layer, []), blocks[layer][1])
        if lost := mixture.unseen():
            raise _own_code(kind, lost)
        result.append(mixture)
    return result


def mixtures_alone(network: nn.Module) -> list[Mixture]:
    """The layers' experts as they are named, with nothing run: for a network whose weights have shapes only."""
    names = {module: name for name, module in network.named_modules()}
    return [
        Mixture(layer_of(module, names), module, (), network.get_submodule(name.rpartition(".")[0]))
        for module, name in names.items()
        if holds_experts(module)
    ]


def _own_code(kind: str, name: str) -> NeuroglotError:
    return NeuroglotError(
        f"{kind} is a native mixture of experts with code of its own ({name}), so the neurons of its experts cannot be "
        f"read; {SUPPORTED}."
    )


def _declared(network: Any, family: Family, kind: str) -> list[FFN]:
    try:
        layers = network.get_decoder().get_submodule(family.layers)
        ffns = [FFN(family.layout(layer)) for layer in layers]
    except (AttributeError, TypeError) as error:
        raise NeuroglotError(
            f"This {kind} model is not built as its family is ({error}); see docs/families.md to describe it."
        ) from error
    if not ffns:
        raise NeuroglotError(f"This {kind} model has no layers; {SUPPORTED}.")
    if len({id(ffn.activation) for ffn in ffns}) < len(ffns):
        raise NeuroglotError(
            f"This {kind} model shares one activation module between layers; its layers cannot be told apart."
        )
    return ffns


def auto_class(config: Any) -> Any:
    """The class of transformers that opens models of a configuration: causal ones, or an encoder with its decoder."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    both = getattr(config, "is_encoder_decoder", False) and type(config) in AutoModelForSeq2SeqLM._model_mapping
    return AutoModelForSeq2SeqLM if both else AutoModelForCausalLM


def check_config(config: Any, name: str) -> None:
    """Refuse a model that cannot be used from its configuration alone, before any weight is fetched.

    What may be an encoder is built with one layer, to see whether it reads ahead. Of a declared family nothing more is
    asked. Another network is built without weights, which takes a second for a large one.

    Raises:
        NeuroglotError: it is no causal language model, a mixture of experts with code of its own, or has no FFN.
    """
    usual = auto_class(config)
    if type(config) not in usual._model_mapping:
        if not hasattr(config, "auto_map"):
            raise NeuroglotError(
                f"{name} is of type {config.model_type}, which is no causal language model; {SUPPORTED}."
            )
        return  # its own code says what it is
    said = config.to_json_string(use_diff=False)
    if said in _usable:
        return
    if not getattr(config, "is_encoder_decoder", False) and _may_read_ahead(decoder_config(config)):
        _check_one_layer(config, usual)
    if declared(decoder_config(config).model_type) is not None:
        return
    with torch.device("meta"), without_empty_warnings():
        network = usual.from_config(config)
    try:
        find_ffns(network)
    except NeuroglotError as error:
        if error.__cause__ is None:  # it was looked at, where a cause says that it could not be without weights
            raise
    _usable.add(said)


def _may_read_ahead(config: Any) -> bool:
    """Whether a configuration says so, by one of the names that architectures have for it."""
    said_not = any(getattr(config, name, None) is False for name in ("is_decoder", "is_causal", "causal"))
    both = getattr(config, "use_bidirectional_attention", None) is True or getattr(config, "attn_type", None) == "bi"
    return said_not or both


def _check_one_layer(config: Any, usual: Any) -> None:
    """Refuse what reads ahead, from a network of one layer with random weights.

    Raises:
        NeuroglotError: as said.
    """
    shallow = copy.deepcopy(config)
    text = decoder_config(shallow)
    with torch.random.fork_rng(devices=[]):
        try:
            if text.vocab_size * text.hidden_size > MOST:
                return
            text.num_hidden_layers = 1
            check_causal(usual.from_config(shallow).eval())
        except NeuroglotError:
            raise
        except Exception:  # an unknown architecture may raise anything; then the model itself will show it
            return


@contextmanager
def without_empty_warnings() -> Iterator[None]:
    """Let torch say nothing of a dense FFN of no neurons, which a layout has beside its experts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors", category=UserWarning)
        yield
