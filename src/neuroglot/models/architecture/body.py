"""Run a network without its language-model head."""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["few_tokens", "input_device", "is_causal", "last_hidden_states", "logits_by_head", "text_config"]


def text_config(network: nn.Module) -> Any:
    """The configuration of the language model, also where it is one part of a larger model."""
    config: Any = network.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def input_device(network: nn.Module) -> torch.device:
    """Where tokens go: where the weights are, or where accelerate brings them while a layer runs."""
    whole: Any = network
    device = torch.device(whole.device)
    if device.type != "meta":
        return device
    for module in network.modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", [hook]):
            if getattr(each, "execution_device", None) is not None:
                return torch.device(each.execution_device)
    return device


def _body(network: Any) -> nn.Module:
    """What computes the last hidden states: all but the head, of an encoder-decoder the decoder."""
    both = getattr(network.config, "is_encoder_decoder", False) and hasattr(network, "get_encoder")
    body: nn.Module = network.get_decoder() if both else network.base_model
    return body


def last_hidden_states(
    network: nn.Module, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
) -> Float[Tensor, "batch length width"]:
    """The last hidden states of a causal language model, or of the decoder of an encoder-decoder."""
    output = _body(network)(input_ids=tokens, attention_mask=mask, use_cache=False)
    states: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
    return states


def logits_by_head(network: nn.Module, states: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocabulary"]:
    """The logits of last hidden states: the network's own forward, with these in the place of its body's output.

    Whatever an architecture does after its body is done: a transformation, a scale, a soft cap.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    body, whole = _body(network), cast(Any, network)
    rows = states.reshape(1, -1, states.shape[-1])
    given = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows)
    before = body.__dict__.get("forward")
    body.__dict__["forward"] = lambda *_, **__: given
    try:
        empty = torch.zeros(rows.shape[:2], dtype=torch.int64, device=input_device(network))
        output = whole(input_ids=empty, use_cache=False)
    finally:
        if before is None:
            del body.__dict__["forward"]
        else:
            body.__dict__["forward"] = before
    logits: Tensor = output.logits
    return logits.reshape(*states.shape[:-1], -1)


def few_tokens(network: nn.Module, count: int = 4) -> Int[Tensor, "1 count"]:
    """A few tokens that any vocabulary has."""
    whole: Any = network
    size = int(whole.get_input_embeddings().weight.shape[0])
    return (torch.arange(count) * 7 + 3).remainder(size)[None].to(input_device(network))


@torch.no_grad()
def is_causal(network: nn.Module) -> bool:
    """Whether what a network makes of a token is the same whatever comes after it."""
    tokens = few_tokens(network)
    if tokens.device.type == "meta":
        return True
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    first, second = (last_hidden_states(network, each)[:, :-1].float() for each in (tokens, other))
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)
