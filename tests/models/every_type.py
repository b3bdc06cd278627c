"""A small random model of any causal type, made from its configuration class."""

import re
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYERS = 4
LARGEST = 5_000_000  # weights

# the size of everything, by the name that configurations have for it; the first that fits
SIZES: list[tuple[str, Any]] = [
    (r"(vocab_size|.*_vocab_size|vocab_size_.*)", 300),
    (r"(hidden_size|d_model|n_embd|dim|model_dim|embedding_size|emb_dim|embed_dim|word_embed_proj_dim|dim_model)", 32),
    (r"(num_hidden_layers|n_layers?|num_layers|(decoder|encoder)_layers|num_decoder_layers|num_encoder_layers)", LAYERS),
    (r"(num_attention_heads|n_heads?|num_heads|attention_heads|(decoder|encoder)_attention_heads|num_(en|de)coder_attention_heads)", 4),
    (r"(num_key_value_heads|num_kv_heads|multi_query_group_num)", 2),
    (r"(head_dim|dim_head|attention_head_dim|global_head_dim|d_kv|kv_channels|swa_head_dim|swa_v_head_dim)", 8),
    (r"(moe_intermediate_size|.*expert.*intermediate_size)", 16),
    (r"(intermediate_size|ffn_dim|.*_ffn_dim|d_inner|d_ff|n_inner|ffn_hidden_size|dim_ff|dff|feed_forward_size)", 48),
    (r"(q_lora_rank|kv_lora_rank|o_lora_rank)", 16),
    (r"(qk_nope_head_dim|qk_rope_head_dim|v_head_dim)", 8),
    (r"qk_head_dim", 16),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length|.*_max_position_embeddings)", 128),
    (r"(num_experts|num_local_experts|n_routed_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok|moe_k|moe_topk|top_k_experts)", 2),
    (r"(n_group|topk_group|n_shared_experts)", 1),
    (r"(mamba_d_state|state_size|ssm_state_size)", 8),
    (r"mamba_d_head|mamba_head_dim", 8),
    (r"mamba_n_heads|n_mamba_heads|mamba_num_heads", 8),
    (r"mamba_d_ssm", 64),
    (r"mamba_n_groups|n_groups", 1),
    (r"linear_(key|value)_head_dim", 8),
    (r"linear_num_(key|value)_heads", 4),
    (r"(sliding_window|attention_window_size|window_size|local_window_size)", 16),
    (r"lru_width", 32),
    (r"(hidden_size_per_layer_input|laurel_rank)", 8),
    (r".*vocab_size_per_layer_input", 300),
    (r"(bos_token_id|eos_token_id|decoder_start_token_id|sep_token_id|cls_token_id|forced_eos_token_id)", 1),
    (r"pad_token_id", 0),
    (r"num_nextn_predict_layers|num_kv_shared_layers", 0),
    (r"is_decoder", True),
]  # fmt: skip

# what no name says: how sizes of one type hang together
SPECIAL: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "minicpm3": {"head_dim": 8},
    "youtu": {"head_dim": 8},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"] * 2,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "num_buckets": 4,
    },
}


class CannotBuild(Exception):
    """A type of which no small model was made, with the reason."""


def network(kind: str, *, seed: int = 0, **changes: Any) -> Any:
    """A small random network, with weights large enough that its neurons matter.

    Raises:
        CannotBuild: as said.
    """
    torch.manual_seed(seed)
    try:
        config = small_config(kind, **changes)
        with torch.device("meta"):
            made = AutoModelForCausalLM.from_config(config)
        size = sum(weight.numel() for weight in made.parameters())
        if size < LARGEST:
            made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        words = str(error).splitlines() or [""]
        raise CannotBuild(f"{type(error).__name__}: {' '.join(words)[:160]}") from error
    if size >= LARGEST:
        raise CannotBuild(f"its smallest model has {size:,} weights")
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.2)
            elif name.endswith("bias"):
                weight.normal_(0, 0.1)
    return made.eval()


def small_config(kind: str, **changes: Any) -> Any:
    """The configuration of a small model."""
    made = CONFIG_MAPPING[kind]
    return made(**_small(made, SPECIAL.get(kind, {}) | changes))


def _small(made: Any, changes: dict[str, Any]) -> dict[str, Any]:
    default = _default(made)
    given: dict[str, Any] = {}
    for name, value in default.items():
        size = next((size for pattern, size in SIZES if re.fullmatch(pattern, name)), None)
        inner = getattr(made, "sub_configs", {}).get(name)
        if inner is not None and inner.__name__ != "AutoConfig":
            given[name] = _small(inner, {})
        elif isinstance(value, list | tuple) and len(value) > LAYERS and "layer" in name:
            given[name] = _layers(list(value))
        elif isinstance(value, list | tuple) and value and "intermediate" in name:
            given[name] = [48, 64, 48, 32][:LAYERS]
        elif size is not None and not (isinstance(value, bool) ^ isinstance(size, bool)):
            given[name] = size
    return given | changes


def _layers(kinds: list[Any]) -> list[Any]:
    """One entry a layer, every kind among them."""
    different = list(dict.fromkeys(map(repr, kinds)))
    chosen = [next(k for k in kinds if repr(k) == name) for name in different]
    return (chosen * LAYERS)[:LAYERS] if len(chosen) <= LAYERS else chosen[:LAYERS]


@cache
def _default(made: Any) -> dict[str, Any]:
    config = made()
    names = [name for name in dir(type(config)) if name in getattr(type(config), "__dataclass_fields__", {})]
    fields = getattr(type(config), "__dataclass_fields__", {})
    return {name: getattr(config, name, None) for name in {**fields, **dict.fromkeys(names)}}
