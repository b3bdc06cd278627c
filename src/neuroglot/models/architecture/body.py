"""Run a network without its language-model head.

Of an encoder-decoder the decoder is run. It attends to what the encoder makes of an empty text, its end token alone:
a decoder that attends to nothing is one that training has never seen.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError

__all__ = [
    "body",
    "check_causal",
    "decoder_config",
    "few_tokens",
    "has_encoder",
    "input_device",
    "last_hidden_states",
    "logits_by_head",
    "text_config",
    "whole_logits",
]


def text_config(network: nn.Module) -> Any:
    """The configuration of the language model, also where it is one part of a larger model."""
    config: Any = network.config
    return decoder_config(config)


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


def decoder_config(config: Any) -> Any:
    """The part of a configuration that is of the language model, or its decoder; itself where it has no parts."""
    if not hasattr(config, "get_text_config"):
        return config
    part = config.get_text_config(decoder=True)
    return config if type(part) is type(config) else part  # of T5 and BART it is a copy, and what is set there is lost


def has_encoder(network: Any) -> bool:
    """Whether a network is an encoder with a decoder."""
    return bool(getattr(network.config, "is_encoder_decoder", False)) and hasattr(network, "get_encoder")


def body(network: Any) -> nn.Module:
    """What computes the last hidden states: all but the head, of an encoder-decoder the decoder."""
    found: nn.Module = network.get_decoder() if has_encoder(network) else network.base_model
    return found


def _encoded(network: Any, rows: int) -> Float[Tensor, "rows 1 width"]:
    """What the encoder makes of an empty text, for so many rows."""
    config = decoder_config(network.config)
    end = getattr(network.config, "eos_token_id", None) or getattr(config, "eos_token_id", None) or 1
    end = end[0] if isinstance(end, list) else end
    weight = network.get_input_embeddings().weight
    read = network.get_encoder()(input_ids=torch.full((1, 1), end, dtype=torch.int64, device=weight.device))
    states: Tensor = read[0]
    return states.expand(rows, -1, -1)


def last_hidden_states(
    network: nn.Module, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
) -> Float[Tensor, "batch length width"]:
    """The last hidden states of a causal language model, or of the decoder of an encoder-decoder."""
    given: dict[str, Any] = {"encoder_hidden_states": _encoded(network, len(tokens))} if has_encoder(network) else {}
    output = body(network)(input_ids=tokens, attention_mask=mask, use_cache=False, **given)
    states: Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
    return states


def whole_logits(network: nn.Module, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
    """The logits that a network gives by itself."""
    whole = cast(Any, network)
    logits: Tensor = whole(**_asked(network, tokens), use_cache=False).logits
    return logits


def _asked(network: nn.Module, tokens: Tensor) -> dict[str, Any]:
    """How a network is asked for logits of tokens; its encoder has read an empty text."""
    if not has_encoder(network):
        return {"input_ids": tokens}
    from transformers.modeling_outputs import BaseModelOutput

    read: Any = BaseModelOutput(last_hidden_state=_encoded(network, len(tokens)))
    return {"encoder_outputs": read, "decoder_input_ids": tokens}


def logits_by_head(network: nn.Module, states: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocabulary"]:
    """The logits of last hidden states: the network's own forward, with these in the place of its body's output.

    Whatever an architecture does after its body is done: a transformation, a scale, a soft cap.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    within, whole = body(network), cast(Any, network)
    rows = states.reshape(1, -1, states.shape[-1])
    given = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=rows)
    before = within.__dict__.get("forward")
    asked = _asked(network, torch.zeros(rows.shape[:2], dtype=torch.int64, device=input_device(network)))
    within.__dict__["forward"] = lambda *_, **__: given
    try:
        logits: Tensor = whole(**asked, use_cache=False).logits
    finally:
        if before is None:
            del within.__dict__["forward"]
        else:
            within.__dict__["forward"] = before
    return logits.reshape(*states.shape[:-1], -1)


def few_tokens(network: nn.Module, count: int = 4) -> Int[Tensor, "1 count"]:
    """A few tokens that any vocabulary has."""
    whole: Any = network
    size = int(whole.get_input_embeddings().weight.shape[0])
    return (torch.arange(count) * 7 + 3).remainder(size)[None].to(input_device(network))


@torch.no_grad()
def check_causal(network: nn.Module) -> None:
    """Refuse a network in which what is made of a token depends on the tokens after it.

    Its perplexity would be that of tokens it has seen, and every statistic one of the whole text.

    Raises:
        NeuroglotError: as said.
    """
    tokens = few_tokens(network)
    if tokens.device.type == "meta":
        return
    other = tokens.clone()
    other[:, -1] = tokens[:, 0]
    first, second = (last_hidden_states(network, each)[:, :-1] for each in (tokens, other))
    allowed = 1e-4 if first.dtype in (torch.float32, torch.float64) else 0.05
    apart, largest = ((each.float().abs().max()) for each in (first - second, first))
    if apart > allowed * largest:
        raise NeuroglotError(
            f"This {text_config(network).model_type} reads a text in both directions, so it is no causal language "
            "model; set is_decoder to true in its config.json if it was trained as one (of XLM causal)."
        )
