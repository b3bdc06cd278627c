"""What a GGUF file says of its model, as the config of transformers: every key that changes what is computed.

A key of the architecture is renamed (`RENAMED`), allowed at the one value that changes nothing (`NEUTRAL`), handled by
a function below, or refused. docs/reading.md has the list.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_header import Header
from neuroglot.models.layer_widths import WIDTHS

__all__ = ["ARCHITECTURES", "ROPE_FACTORS", "config_of"]

ARCHITECTURES = {
    "llama": "llama", "deci": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma2": "gemma2",
    "gemma3": "gemma3_text", "falcon": "falcon", "bloom": "bloom", "gpt2": "gpt2", "stablelm": "stablelm",
    "starcoder2": "starcoder2", "nemotron": "nemotron",
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
CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
WINDOW = {"attention.sliding_window": "sliding_window"}

RENAMED: dict[str, dict[str, str]] = {
    "llama": RMS,
    "deci": RMS,
    "qwen2": RMS,
    "qwen3": RMS,
    "phi3": RMS | WINDOW,
    "gemma2": RMS | WINDOW | CAPS,
    "gemma3": RMS | WINDOW | CAPS | {"rope.freq_base_swa": "rope_local_base_freq"},
    "falcon": USUAL | {"attention.layer_norm_epsilon": "layer_norm_epsilon", "feed_forward_length": "ffn_hidden_size"},
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
NUMBERS = {
    "block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count",
}  # fmt: skip
"""Keys that are whole numbers above 0."""
REALS = {
    "rope.freq_base", "rope.freq_base_swa", "rope.scaling.factor", "attn_logit_softcapping", "final_logit_softcapping",
    "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon",
}  # fmt: skip
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
    if keys.get(f"{architecture}.expert_count", 0) != 0:
        raise NeuroglotError(
            f"{header.path} ({architecture}) is a mixture of experts, whose neurons are not all used by every token; "
            "Neuroglot reads dense FFNs only for now, so choose a dense model."
        )
    if architecture not in ARCHITECTURES:
        raise NeuroglotError(
            f"{header.path} is of the architecture {architecture}, which is not read from GGUF "
            f"(only {', '.join(ARCHITECTURES)}); give the checkpoint that it was made from."
        )
    renamed = RENAMED[architecture]
    said = _said(header)
    for name, value in said.items():
        neutral = name in NEUTRAL and value == NEUTRAL[name]
        if architecture == "bloom" and name == "attention.max_alibi_bias":
            neutral = value == 8
        if name not in renamed and name not in SILENT and name not in HANDLED and not neutral:
            raise _refused(header, name, value)
    config: dict[str, Any] = {renamed[name]: value for name, value in said.items() if name in renamed}
    config["model_type"] = ARCHITECTURES[architecture]
    if title := keys.get("general.name"):
        config["_model_name_or_path"] = title
    config["vocab_size"] = rows = header.tensors["token_embd.weight"].shape[0]
    for token in ("bos", "eos", "unknown", "padding"):
        number = keys.get(f"tokenizer.ggml.{token}_token_id")
        if isinstance(number, int) and 0 <= number < rows:  # some files write 2³² - 1 for none
            config[{"unknown": "unk", "padding": "pad"}.get(token, token) + "_token_id"] = number
    config["tie_word_embeddings"] = _tied(header)
    for rule in (_widths, _heads, _rotary, _attention_scale, _pattern, _biases, _norms):
        rule(header, said, config)
    return config


def _said(header: Header) -> dict[str, Any]:
    """The keys of the architecture, one value each; what llama.cpp takes for one that is not there is added.

    Raises:
        NeuroglotError: a key that llama.cpp asks for is missing, a number is none, or layers or tokens are not those
            that the tensors are for.
    """
    prefix = header.architecture + "."
    said = {name.removeprefix(prefix): value for name, value in header.keys.items() if name.startswith(prefix)}
    said = {name: _one(header, name, value) for name, value in said.items()}
    for name, value in said.items():
        if not _possible(name, value):
            raise NeuroglotError(f"{header.path} says {prefix}{name} = {value}; it is damaged.")
    said |= {name: float(value) for name, value in said.items() if name in REALS}
    epsilons = {name for name in RENAMED[header.architecture] if name.endswith("epsilon")}
    lacking = {"block_count", "embedding_length", "attention.head_count", "context_length"} - said.keys()
    if lacking or not epsilons & said.keys():
        raise NeuroglotError(f"{header.path} does not say {prefix}{min(lacking | epsilons)}; it is damaged.")
    said.setdefault("attention.head_count_kv", said["attention.head_count"])
    if "rope.freq_base" in RENAMED[header.architecture]:
        said.setdefault("rope.freq_base", 10_000.0)
    _check_sizes(header, said["block_count"])
    return said


def _possible(name: str, value: Any) -> bool:
    """Whether a key's value is of the kind that it must be."""
    if name in NUMBERS:
        values = value if isinstance(value, list) else [value]
        return bool(values) and all(type(each) is int and 0 < each < 2**31 for each in values)
    if name in REALS:
        return type(value) in (int, float) and bool(np.isfinite(value)) and value >= 0
    if name == "attention.sliding_window":
        return type(value) is int and value >= 0
    if name == "attention.sliding_window_pattern":
        return isinstance(value, list) or (type(value) is int and value >= 0)
    return True


def _check_sizes(header: Header, said: int) -> None:
    layers = {int(name.split(".")[1]) for name in header.tensors if re.match(r"blk\.\d+\.", name)}
    if layers != set(range(said)) or "token_embd.weight" not in header.tensors:
        raise NeuroglotError(
            f"{header.path} says that it has {said} layers, and lacks weights of them or of the embedding, or has "
            "others; it is incomplete; download it again."
        )
    tokens, rows = len(header.keys.get("tokenizer.ggml.tokens", ())), header.tensors["token_embd.weight"].shape[0]
    if tokens > rows:
        raise NeuroglotError(f"{header.path} names {tokens} tokens and has embeddings of {rows}; it is damaged.")


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
    if header.architecture == "falcon" and said["attention.head_count_kv"] != 1:
        raise _refused(header, "attention.head_count_kv", said["attention.head_count_kv"])  # 40B: another layout
    if header.architecture in ("bloom", "gpt2") and said["attention.head_count_kv"] != heads:
        raise _refused(header, "attention.head_count_kv", said["attention.head_count_kv"])
    length = said.get("attention.key_length", said["embedding_length"] // heads)
    if said.get("attention.value_length", length) != length:
        raise _refused(header, "attention.value_length", said["attention.value_length"])
    natural = length * heads == said["embedding_length"]
    if not natural and header.architecture not in (
        "llama",
        "deci",
        "qwen3",
        "gemma2",
        "gemma3",
        "nemotron",
    ):
        raise _refused(header, "attention.key_length", length)
    if natural and header.architecture in ("qwen2", "phi3", "falcon", "stablelm", "starcoder2"):
        config.pop("head_dim", None)  # these take it from the other two
    elif header.architecture in ("llama", "deci", "qwen3", "gemma2", "gemma3", "nemotron"):
        config["head_dim"] = length


def _rotary(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    length = said.get("attention.key_length", said["embedding_length"] // said["attention.head_count"])
    turned = said.get("rope.dimension_count", length)
    if turned > length or turned % 2:
        raise _refused(header, "rope.dimension_count", turned)
    if turned != length or header.architecture in ("stablelm", "nemotron"):
        if header.architecture not in PARTIAL:
            raise _refused(header, "rope.dimension_count", turned)
        config["partial_rotary_factor"] = turned / length
    if 0 in (said.get("rope.freq_base"), said.get("rope.freq_base_swa")):
        raise _refused(header, "rope.freq_base", 0)
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
        config["rope_scaling"] = _llama3(header, factors.values(), said["rope.freq_base"], length)
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
    """Caps, where 0 is none; and Gemma's scale.

    It is by the length of a head, but for the 27B models, which llama.cpp knows by their layers.
    """
    for name in CAPS.values():
        if config.get(name) == 0:
            config[name] = None
    large = {"gemma2": 46, "gemma3": 62}.get(header.architecture)
    if large is not None:
        by = said["embedding_length"] // said["attention.head_count"] if said["block_count"] == large else None
        config["query_pre_attn_scalar"] = by or config["head_dim"]


def _pattern(header: Header, said: dict[str, Any], config: dict[str, Any]) -> None:
    """Which layers look at a window only."""
    pattern, window = said.get("attention.sliding_window_pattern"), said.get("attention.sliding_window")
    if header.architecture == "phi3" and window == 0:
        config["sliding_window"] = None
    if header.architecture not in ("gemma2", "gemma3"):
        if pattern is not None:
            raise _refused(header, "attention.sliding_window_pattern", pattern)
        return
    layers = said["block_count"]
    if window == 0 or (window is None and header.architecture == "gemma3"):
        config["sliding_window"], windowed = 4096, [False] * layers  # as llama.cpp, which gives Gemma 2 one of 4096
    elif pattern is None:
        return
    elif isinstance(pattern, list):
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
