"""What a GGUF file says of its model, as the config of transformers: every key that changes what is computed.

A key of the architecture is renamed (`RENAMED`), allowed at the one value that changes nothing (`NEUTRAL`), handled by
a function below, or refused. docs/reading.md has the list.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_header import Header
from neuroglot.models.layer_widths import WIDTHS

__all__ = ["ARCHITECTURES", "ROPE_FACTORS", "config_of"]

ARCHITECTURES = {
    "llama": "llama", "deci": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe", "phi3": "phi3", "gemma2": "gemma2", "gemma3": "gemma3_text", "falcon": "falcon",
    "bloom": "bloom", "gpt2": "gpt2", "stablelm": "stablelm", "starcoder2": "starcoder2", "nemotron": "nemotron",
}  # fmt: skip
"""llama.cpp's architectures → transformers' model types."""

USUAL = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
RMS = USUAL | {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
MOE = RMS | {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
WINDOW = {"attention.sliding_window": "sliding_window"}

RENAMED: dict[str, dict[str, str]] = {
    "llama": RMS,
    "deci": RMS,
    "qwen2": RMS,
    "qwen3": RMS,
    "qwen2moe": MOE,
    "qwen3moe": MOE,
    "phi3": RMS | WINDOW,
    "gemma2": RMS | WINDOW | CAPS,
    "gemma3": RMS | WINDOW | CAPS | {"rope.freq_base_swa": "rope_local_base_freq"},
    "falcon": USUAL | {"attention.layer_norm_epsilon": "layer_norm_epsilon"},
    "stablelm": USUAL | {"attention.layer_norm_epsilon": "layer_norm_eps"},
    "starcoder2": USUAL | {"attention.layer_norm_epsilon": "norm_epsilon"},
    "nemotron": USUAL | {"attention.layer_norm_rms_epsilon": "norm_eps", "attention.layer_norm_epsilon": "norm_eps"},
    "bloom": {
        "block_count": "n_layer",
        "embedding_length": "hidden_size",
        "attention.head_count": "n_head",
        "vocab_size": "vocab_size",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    "gpt2": {
        "block_count": "n_layer",
        "context_length": "n_positions",
        "embedding_length": "n_embd",
        "feed_forward_length": "n_inner",
        "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
}
"""By architecture: a key → the name of the value in transformers' config."""

NEUTRAL: dict[str, Any] = {
    "attention.causal": True, "attention.clamp_kqv": 0, "attention.max_alibi_bias": 0, "attention.scale": 0,
    "logit_scale": 1, "residual_scale": 1, "embedding_scale": 1, "rope.scale_linear": 1, "expert_count": 0,
    "expert_used_count": 0, "expert_shared_count": 0, "expert_weights_scale": 1, "leading_dense_block_count": 0,
    "pooling_type": 0, "rope.scaling.attn_factor": 1, "rope.scaling.yarn_log_multiplier": 0,
}  # fmt: skip
"""A key that the config has no name for → the value with which it changes nothing."""

SILENT = ("rope.scaling.finetuned", "tensor_data_layout", "attention.value_length", "attention.head_count_kv")
HANDLED = (
    "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "attention.sliding_window_pattern", "use_parallel_residual", "feed_forward_length", "context_length",
)  # fmt: skip
PARTIAL = ("phi3", "stablelm", "nemotron")  # rotary embeddings may turn a part of a head only
ROPE_FACTORS = "rope_freqs.weight"


def config_of(header: Header) -> dict[str, Any]:
    """The config of transformers, `model_type` among its names.

    Raises:
        NeuroglotError: the architecture is not read from GGUF, or a key says what cannot be honoured.
    """
    keys, architecture = header.keys, header.architecture
    if keys.get("general.type", "model") != "model":
        raise NeuroglotError(f"{header.path} holds no model but a file of type {keys['general.type']}.")
    if architecture not in ARCHITECTURES:
        raise NeuroglotError(
            f"{header.path} is of the architecture {architecture}, which is not read from GGUF "
            f"(only {', '.join(ARCHITECTURES)}); give the checkpoint that it was made from."
        )
    prefix = architecture + "."
    said = {name.removeprefix(prefix): value for name, value in keys.items() if name.startswith(prefix)}
    said = {name: _one(header, name, value) for name, value in said.items()}
    renamed = RENAMED[architecture]
    for name, value in said.items():
        neutral = name in NEUTRAL and value == NEUTRAL[name]
        if architecture == "bloom" and name == "attention.max_alibi_bias":
            neutral = value == 8
        if name not in renamed and name not in SILENT and name not in HANDLED and not neutral:
            raise _refused(header, name, value)
    config: dict[str, Any] = {renamed[name]: value for name, value in said.items() if name in renamed}
    if not {"block_count", "embedding_length", "attention.head_count"} <= said.keys():
        raise NeuroglotError(f"{header.path} does not say how many layers, heads and dimensions it has; it is damaged.")
    config["model_type"] = ARCHITECTURES[architecture]
    if title := keys.get("general.name"):
        config["_model_name_or_path"] = title
    for token in ("bos", "eos", "unknown", "padding"):
        if (number := keys.get(f"tokenizer.ggml.{token}_token_id")) is not None:
            config[{"unknown": "unk", "padding": "pad"}.get(token, token) + "_token_id"] = number
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None:
        config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = _tied(header)
    for rule in (_widths, _heads, _rotary, _attention_scale, _pattern, _biases, _norms):
        rule(header, said, config)
    return config


def _refused(header: Header, name: str, value: Any) -> NeuroglotError:
    return NeuroglotError(
        f"{header.path} says {header.architecture}.{name} = {value}, which may change what the model computes and is "
        "not read from GGUF; give the checkpoint that it was made from."
    )


def _one(header: Header, name: str, value: Any) -> Any:
    """A value a layer where all are the same; widths and patterns may differ."""
    if not isinstance(value, list) or name in ("feed_forward_length", "attention.sliding_window_pattern"):
        return value
    if not value or any(each != value[0] for each in value):
        raise _refused(header, name, value)
    return value[0]


def _tied(header: Header) -> bool:
    output, embedding = header.tensors.get("output.weight"), header.tensors.get("token_embd.weight")
    if output is None or embedding is None:
        return True
    # converters write a second copy for these
    return header.architecture in ("falcon", "bloom") and np.array_equal(output.data, embedding.data)


Rule = Callable[[Header, dict[str, Any], dict[str, Any]], None]


def _widths(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    """Layers of several widths, as `prune` writes them."""
    widths = said.get("feed_forward_length")
    if header.architecture == "bloom":
        if widths not in (None, 4 * said["embedding_length"]):
            raise _refused(header, "feed_forward_length", widths)
    elif isinstance(widths, list):
        config["intermediate_size"] = max(widths)
        if len(set(widths)) > 1:
            if header.architecture not in ("llama", "deci") or len(widths) != said["block_count"]:
                raise _refused(header, "feed_forward_length", widths)
            config[WIDTHS] = widths


def _heads(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    heads = said["attention.head_count"]
    if header.architecture in ("bloom", "gpt2") and said.get("attention.head_count_kv", heads) != heads:
        raise _refused(header, "attention.head_count_kv", said["attention.head_count_kv"])
    length = said.get("attention.key_length", said["embedding_length"] // heads)
    if said.get("attention.value_length", length) != length:
        raise _refused(header, "attention.value_length", said["attention.value_length"])
    natural = length * heads == said["embedding_length"]
    if not natural and header.architecture not in (
        "llama",
        "deci",
        "qwen3",
        "qwen3moe",
        "gemma2",
        "gemma3",
        "nemotron",
    ):
        raise _refused(header, "attention.key_length", length)
    if natural and header.architecture in ("qwen2", "qwen2moe", "phi3", "falcon", "stablelm", "starcoder2"):
        config.pop("head_dim", None)  # these take it from the other two
    elif header.architecture in ("llama", "deci", "qwen3", "qwen3moe", "gemma2", "gemma3", "nemotron"):
        config["head_dim"] = length


def _rotary(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    length = said.get("attention.key_length", said["embedding_length"] // said["attention.head_count"])
    turned = said.get("rope.dimension_count", length)
    if turned != length or header.architecture in ("stablelm", "nemotron"):
        if header.architecture not in PARTIAL:
            raise _refused(header, "rope.dimension_count", turned)
        config["partial_rotary_factor"] = turned / length
    kind, factor = said.get("rope.scaling.type", "none"), said.get("rope.scaling.factor", 0)
    original = said.get("rope.scaling.original_context_length")
    if kind == "linear" and factor not in (0, 1):
        config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn" and factor not in (0, 1):
        config["rope_scaling"] = {"rope_type": "yarn", "factor": factor}
        if original:
            config["rope_scaling"]["original_max_position_embeddings"] = original
    elif kind not in ("none", "linear", "yarn") or (kind == "none" and factor not in (0, 1)):
        raise _refused(header, "rope.scaling.type", kind)
    if factors := header.tensors.get(ROPE_FACTORS):
        if "rope_scaling" in config:
            raise _refused(header, "rope.scaling.type", kind)
        config["rope_scaling"] = _llama3(header, factors.values(), said.get("rope.freq_base", 10_000.0), length)
    if "rope_scaling" in config and header.architecture not in ("llama", "deci", "qwen2", "qwen3", "gemma3"):
        raise _refused(header, "rope.scaling.type", kind)


def _llama3(header: Header, factors: np.ndarray, base: float, length: int) -> dict[str, Any]:
    """The scaling of Llama 3.1 and 3.2 that these divisors of the frequencies are of.

    Raises:
        NeuroglotError: they are of another.
    """
    waves = 2 * np.pi * base ** (np.arange(0, length, 2) / length)
    low, high, original = 1.0, 4.0, 8192
    for factor in (8.0, 32.0):
        smooth = np.clip((original / waves - low) / (high - low), 0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=1e-3):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }  # fmt: skip
    raise NeuroglotError(
        f"{header.path} scales rotary frequencies ({ROPE_FACTORS}) in a way that is not Llama 3's; give the checkpoint "
        "that it was made from."
    )


def _attention_scale(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    """Of Gemma: by the length of a head, but for the 27B models, which llama.cpp knows by their layers."""
    large = {"gemma2": 46, "gemma3": 62}.get(header.architecture)
    if large is not None:
        by = said["embedding_length"] // said["attention.head_count"] if said["block_count"] == large else None
        config["query_pre_attn_scalar"] = by or config["head_dim"]


def _pattern(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    """Which layers look at a window only."""
    pattern = said.get("attention.sliding_window_pattern")
    if pattern is None:
        return
    if header.architecture not in ("gemma2", "gemma3"):
        raise _refused(header, "attention.sliding_window_pattern", pattern)
    layers = said["block_count"]
    if isinstance(pattern, list):
        windowed = [bool(each) for each in pattern]
    else:
        windowed = [(layer + 1) % pattern != 0 for layer in range(layers)] if pattern else [False] * layers
    if len(windowed) != layers:
        raise _refused(header, "attention.sliding_window_pattern", pattern)
    config["layer_types"] = ["sliding_attention" if each else "full_attention" for each in windowed]


def _biases(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    """Biases that an architecture may have or not; a tensor says it, no key."""
    if header.architecture in ("llama", "deci") and "blk.0.attn_q.bias" in header.tensors:
        config["attention_bias"] = True
    if header.architecture in ("llama", "deci") and "blk.0.ffn_up.bias" in header.tensors:
        config["mlp_bias"] = True
    if header.architecture == "stablelm":
        config["use_qkv_bias"] = "blk.0.attn_q.bias" in header.tensors


def _norms(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    parallel = said.get("use_parallel_residual")
    if header.architecture == "stablelm":
        config["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in header.tensors
        parallel = None if parallel == config["use_parallel_residual"] else parallel
    if parallel is not None:
        raise _refused(header, "use_parallel_residual", parallel)
    if header.architecture == "qwen3moe":
        config["norm_topk_prob"] = True  # llama.cpp always does
