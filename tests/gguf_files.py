"""Tiny GGUF files of every architecture that is read, written as llama.cpp's converters write them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

Keys = dict[str, Any]
USUAL: Keys = {"context_length": 128, "embedding_length": 16, "block_count": 3, "feed_forward_length": 24,
               "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 4,
               "rope.freq_base": 5000.0}  # fmt: skip
RMS: Keys = USUAL | {"attention.layer_norm_rms_epsilon": 0.5}
NORM: Keys = USUAL | {"attention.layer_norm_epsilon": 0.5}
SETTINGS: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rope_theta": 5000.0,
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257,
}  # fmt: skip
EPSILON = {"rms_norm_eps": 0.5}  # large, so that another would show
GEMMA: Keys = {"attention.key_length": 6, "attention.value_length": 6, "rope.dimension_count": 6}


@dataclass
class Kind:
    """An architecture: transformers' type and settings, and llama.cpp's keys for the same model."""

    type: str
    settings: dict[str, Any] = field(default_factory=dict)
    keys: Keys = field(default_factory=dict)
    architecture: str = ""  # of llama.cpp, if it is not the name of the case
    factors: np.ndarray | None = None  # rope_freqs.weight


def llama3() -> np.ndarray:
    """Divisors of the 16 frequencies of a head of 32, as Llama 3.1's own code smooths them."""
    made = []
    for frequency in 5000.0 ** -(np.arange(0, 32, 2) / 32):
        wave = 2 * np.pi / frequency
        if wave < 8192 / 4:
            made.append(1.0)
        elif wave > 8192 / 1:
            made.append(8.0)
        else:
            smooth = (8192 / wave - 1) / (4 - 1)
            made.append(1 / ((1 - smooth) / 8 + smooth))
    return np.asarray(made, dtype=np.float32)


SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
YARN: Keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 32}

KINDS: dict[str, Kind] = {
    "llama": Kind("llama", EPSILON, RMS),
    "llama untied, biased": Kind("llama", EPSILON | {"attention_bias": True, "mlp_bias": True}, RMS, "llama"),
    "llama linear": Kind("llama", EPSILON | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
                         RMS | {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, "llama"),
    "llama 3": Kind("llama", EPSILON | {"head_dim": 32, "rope_scaling": SCALED},
                    RMS | {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32},
                    "llama", llama3()),
    "deci": Kind("llama", EPSILON, RMS),
    "qwen2": Kind("qwen2", EPSILON, RMS),
    "qwen2 yarn": Kind("qwen2", EPSILON | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0,
                       "original_max_position_embeddings": 32}}, RMS | YARN, "qwen2"),
    "qwen3": Kind("qwen3", EPSILON | {"head_dim": 6},
                  RMS | {"attention.key_length": 6, "attention.value_length": 6, "rope.dimension_count": 6}),
    "phi3": Kind("phi3", EPSILON | {"sliding_window": 5}, RMS | {"attention.sliding_window": 5}),
    "phi3 partial": Kind("phi3", EPSILON | {"partial_rotary_factor": 0.5, "sliding_window": None},
                         RMS | {"rope.dimension_count": 2}, "phi3"),
    "gemma2": Kind("gemma2", EPSILON | {"head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 5,
                                        "attn_logit_softcapping": 0.3, "final_logit_softcapping": 2.0},
                   RMS | GEMMA | {"attention.sliding_window": 5, "attn_logit_softcapping": 0.3,
                                  "final_logit_softcapping": 2.0}),
    "gemma3": Kind("gemma3_text", EPSILON | {"head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 5,
                                             "num_hidden_layers": 7, "rope_local_base_freq": 10000.0},
                   RMS | GEMMA | {"attention.sliding_window": 5, "block_count": 7}),
    "gemma2 without": Kind("gemma2", EPSILON | {"query_pre_attn_scalar": 4, "head_dim": 4, "layer_types":
                           ["full_attention"] * 3}, RMS | {"attention.sliding_window": 0}, "gemma2"),
    "gemma3 scaled": Kind("gemma3_text", EPSILON | {
        "head_dim": 6, "query_pre_attn_scalar": 6, "sliding_window": 5, "num_hidden_layers": 2,
        "final_logit_softcapping": 2.0, "layer_types": ["full_attention", "sliding_attention"], "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}},
        RMS | GEMMA | {"attention.sliding_window": 5, "block_count": 2, "rope.scaling.type": "linear",
                       "rope.scaling.factor": 8.0, "rope.freq_base_swa": 300.0, "final_logit_softcapping": 2.0,
                       "attention.sliding_window_pattern": [False, True]}, "gemma3"),
    "gemma3 full": Kind("gemma3_text", EPSILON | {"head_dim": 6, "query_pre_attn_scalar": 6, "layer_types":
                        ["full_attention"] * 3}, RMS | GEMMA, "gemma3"),
    "falcon": Kind("falcon", {"layer_norm_epsilon": 0.5, "ffn_hidden_size": 24, "tie_word_embeddings": True},
                   NORM | {"attention.head_count_kv": 1}),
    "bloom": Kind("bloom", {"n_layer": 3, "n_head": 4, "layer_norm_epsilon": 0.5, "tie_word_embeddings": True},
                  {name: NORM[name] for name in ("context_length", "embedding_length", "block_count",
                   "attention.head_count", "attention.layer_norm_epsilon")}
                  | {"feed_forward_length": 64, "attention.head_count_kv": 4}),
    "gpt2": Kind("gpt2", {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_inner": 24, "n_positions": 128,
                          "layer_norm_epsilon": 0.5},
                 {name: value for name, value in NORM.items() if not name.startswith("rope")}
                 | {"attention.head_count_kv": 4}),
    "stablelm": Kind("stablelm", {"layer_norm_eps": 0.5, "partial_rotary_factor": 0.5, "use_qkv_bias": True},
                     NORM | {"rope.dimension_count": 2, "use_parallel_residual": False}),
    "stablelm parallel": Kind("stablelm", {"layer_norm_eps": 0.5, "partial_rotary_factor": 0.5,
                                           "use_parallel_residual": True},
                              NORM | {"rope.dimension_count": 2, "use_parallel_residual": True}, "stablelm"),
    "starcoder2": Kind("starcoder2", {"norm_epsilon": 0.5, "sliding_window": None}, NORM),
    "nemotron": Kind("nemotron", {"norm_eps": 0.5, "partial_rotary_factor": 0.5},
                     NORM | {"rope.dimension_count": 2}),
}  # fmt: skip


def network(name: str, **changes: Any) -> Any:
    """The model, with weights large enough that every part of it matters."""
    kind = KINDS[name]
    torch.manual_seed(0)
    tied = {"tie_word_embeddings": "untied" not in name} if kind.type != "qwen2" else {}
    config = AutoConfig.for_model(kind.type, **(SETTINGS | tied | kind.settings | changes))
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    made.tie_weights()
    return made


def write(path: Path, name: str, made: Any, *, extra: Keys | None = None, without: tuple[str, ...] = (),
          alignment: int | None = None, parts: int = 1, pre: str = "gpt-2") -> Path:  # fmt: skip
    """Its GGUF file; with `parts`, as many files of about as many tensors each, of which the first is returned."""
    kind = KINDS[name]
    architecture = kind.architecture or name
    tensors = {called: value for called, value in _tensors(architecture, kind, made).items() if called not in without}
    each = -(-len(tensors) // parts)
    files = [path] if parts == 1 else [path.with_name(f"{path.stem}-{i:05}-of-{parts:05}.gguf")
                                       for i in range(1, parts + 1)]  # fmt: skip
    for number, file in enumerate(files):
        writer = gguf.GGUFWriter(file, architecture)
        if alignment:
            writer.add_custom_alignment(alignment)
        if number == 0:
            _keys(writer, architecture, kind.keys | (extra or {}), pre)
        if parts > 1:
            writer.add_key_value("split.no", number, gguf.GGUFValueType.UINT16)
            writer.add_key_value("split.count", parts, gguf.GGUFValueType.UINT16)
            writer.add_key_value("split.tensors.count", len(tensors), gguf.GGUFValueType.INT32)
        for called, value in list(tensors.items())[number * each : (number + 1) * each]:
            writer.add_tensor(called, np.ascontiguousarray(value))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files[0]


def _keys(writer: gguf.GGUFWriter, architecture: str, keys: Keys, pre: str) -> None:
    for name, value in keys.items():
        called = name if name.startswith(("general.", "tokenizer.", "split.")) else f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(called, value)
        else:
            add = {bool: writer.add_bool, float: writer.add_float32, str: writer.add_string}
            add.get(type(value), writer.add_uint32)(called, value)
    vocabulary = tiny.tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([1] * 256 + [3, 3])
    writer.add_token_merges([])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(257)
    writer.add_add_bos_token(True)


def _tensors(architecture: str, kind: Kind, made: Any) -> dict[str, np.ndarray]:
    """llama.cpp's name → values. Each branch is what one converter of llama.cpp does to a weight."""
    config = made.config
    arch = next(key for key, called in gguf.MODEL_ARCH_NAMES.items() if called == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    found: dict[str, np.ndarray] = {}
    for name, weight in made.state_dict().items():
        if name in tied:
            continue
        stem, _, suffix = name.rpartition(".")
        values = weight.numpy().copy()
        if architecture in ("llama", "deci") and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
            values = values + 1
        if architecture == "bloom" and "query_key_value" in name:
            values = values.reshape(config.n_head, 3, -1, *weight.shape[1:]).swapaxes(0, 1).reshape(weight.shape)
        if architecture == "gpt2" and weight.ndim == 2 and ".h." in name:
            values = values.T
        called = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
        if called is not None:
            found[f"{called}.{suffix}"] = values
        else:
            raise AssertionError(name)
    if kind.factors is not None:
        found["rope_freqs.weight"] = kind.factors
    return found
