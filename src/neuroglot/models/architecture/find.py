"""The FFNs of a model."""

from typing import Any

from torch import nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.families import FAMILIES
from neuroglot.models.architecture.ffn import FFN

__all__ = ["find_ffns"]


def find_ffns(network: nn.Module) -> list[FFN]:
    """The FFNs of a Hugging Face causal language model, from the input to the output.

    Raises:
        NeuroglotError: the architecture is not one of `FAMILIES`, is a native mixture of experts, or does not look
            like its family.
    """
    config: Any = network.config
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    kind = config.model_type
    experts = next((k for k in ("num_experts", "num_local_experts", "n_routed_experts") if getattr(config, k, 0)), None)
    if experts or "moe" in kind:
        raise NeuroglotError(
            f"{kind} is a native mixture of experts, whose neurons are not all used by every token; Neuroglot reads "
            "dense FFNs only for now, so choose a dense model."
        )
    family = next((family for family in FAMILIES if kind in family.types), None)
    if family is None:
        known = sorted(name for family in FAMILIES for name in family.types)
        raise NeuroglotError(
            f"The architecture {kind!r} is not known; known are {', '.join(known)}. "
            "A family is a few lines in families.py: see docs/families.md."
        )
    try:
        layers = network.get_decoder().get_submodule(family.layers)  # type: ignore[operator]
        ffns = [FFN(family, layer) for layer in layers]
    except AttributeError as error:
        raise NeuroglotError(
            f"This {kind} model is not built as its family is ({error}); see docs/families.md to describe it."
        ) from error
    if len({id(ffn.activation) for ffn in ffns}) < len(ffns):
        raise NeuroglotError(
            f"This {kind} model shares one activation module between layers; its layers cannot be told apart."
        )
    return ffns
