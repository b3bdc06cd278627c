"""A small random model of any causal type, made from its configuration class."""

import os
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import tiny
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

import neuroglot as ng
from neuroglot.artifacts.provenance import Provenance
from neuroglot.models.architecture.find import is_mixture
from neuroglot.recording.worker import Work, record_shard
from neuroglot.tokens.shard_stream import Shard

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
WITH_ENCODER = tuple(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
"""Encoders with a decoder."""
SOME = TYPES if "EVERY_TYPE" in os.environ else TYPES[::12]
"""What `make test` has time for; `make models` takes all."""
# inline, uneven, normed, fused, plain, scaled, hybrid, a decoder of two, an encoder as a decoder, xIELU
SAMPLE = ("lfm2", "gemma3n_text", "bitnet", "glm4", "nemotron", "falcon_h1", "bamba", "bart", "bert", "apertus", "xlm")
LAYERS = 4
TOKENS = torch.randint(3, 250, (2, 7), generator=torch.Generator().manual_seed(1))
LARGEST = 5_000_000  # weights

# the size of everything, by the name that configurations have for it; the first that fits
SIZES: list[tuple[str, Any]] = [
    (r"(vocab_size|.*_vocab_size|vocab_size_.*)", 300),
    (r"(hidden_size|d_model|n_embd|dim|model_dim|embedding_size|emb_dim|embed_dim|word_embed_proj_dim|dim_model)", 32),
    (r"(num_hidden_layers|n_layers?|num_layers|(de|en)coder_layers|num_(de|en)coder_layers)", LAYERS),
    (r"(num_attention_heads|n_heads?|num_heads|(num_)?((de|en)coder_)?attention_heads)", 4),
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
    "xlm": {"causal": True},
    "xmod": {"languages": ["en"], "default_language": "en"},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "youtu": {"head_dim": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "gemma3": {
        "vision_config": {
            "num_hidden_layers": 1,
            "hidden_size": 16,
            "image_size": 28,
            "patch_size": 14,
            "intermediate_size": 16,
            "num_attention_heads": 2,
        },
        "mm_tokens_per_image": 4,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2}},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "zaya": {"num_experts_per_tok": 1},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"] * 2,
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "num_buckets": 4,
    },
}


# state-space models, which have no FFN to find
WITHOUT_FFN = ("mamba", "mamba2", "falcon_mamba")


class CannotBuild(Exception):
    """A type of which no small model was made, with the reason."""


def network(kind: str, *, seed: int = 0, encoder: bool = False, **changes: Any) -> Any:
    """A small random network, with weights large enough that its neurons matter.

    Args:
        kind: the type.
        seed: of the weights.
        encoder: whether the decoder has its encoder.
        changes: to the configuration.

    Raises:
        CannotBuild: as said.
    """
    torch.manual_seed(seed)
    usual = AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM
    try:
        config = small_config(kind, **({"is_decoder": False} if encoder else {}) | changes)
        with torch.device("meta"):
            made = usual.from_config(config)
        size = sum(weight.numel() for weight in made.parameters())
        if size < LARGEST:
            made = usual.from_config(config, dtype=torch.float32)
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


def refused_config(kind: str) -> dict[str, Any]:
    """The configuration of something that cannot be used: an encoder, a type that nobody knows …"""
    if kind not in CONFIG_MAPPING:
        return {"model_type": kind}
    ahead: dict[str, dict[str, Any]] = {
        "bert": {"is_decoder": False},
        "xlm": {"causal": False},
        "xlnet": {"attn_type": "bi"},
        "gemma3_text": {"use_bidirectional_attention": True},
    }
    changes = ahead.get(kind, {})
    made: dict[str, Any] = small_config(kind, **changes).to_dict()
    return made


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
    if given.get("kv_lora_rank") and "num_key_value_heads" in given:
        given["num_key_value_heads"] = 4  # latent attention has a key for every query
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
    return {name: _value(config, name) for name in {**fields, **dict.fromkeys(names)}}


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # a value that differs between layers
        return None


@dataclass(frozen=True)
class Outcome:
    """What came of a type.

    Attributes:
        kind: the `model_type`.
        state: `recorded`, `not found`, `mixture` (a native mixture of experts), `not built`, or `wrong`.
        reason: why it is not recorded.
        layout: gated or plain, and what is odd about it.
        widths: neurons of each layer of the small model.
        site: what gives the activation.
        perplexity: whether its head is known.
        attentions: how many attentions have heads that can be read and switched off.
    """

    kind: str
    state: str
    reason: str = ""
    layout: str = ""
    widths: tuple[int, ...] = ()
    site: str = ""
    perplexity: bool = False
    attentions: int = 0

    @property
    def recorded(self) -> bool:
        """Whether its neurons can be used."""
        return self.state == "recorded"


def tried(kind: str, encoder: bool = False) -> Outcome:
    """Make a small model of a type and try on it all that its neurons and heads are said to be."""
    try:
        made = network(kind, encoder=encoder)
    except CannotBuild as error:
        return Outcome(kind, "not built", str(error))
    try:
        model = ng.Model(made, tiny.tokenizer())
    except ng.NeuroglotError as error:
        return Outcome(kind, "mixture" if is_mixture(made) else "not found", str(error))
    try:
        if model.mixtures:
            import mixtures

            wrong = mixtures.counted_wrong(model) or mixtures.ablated_wrong(model)
        else:
            wrong = _counts(model) or _ablation(model)
        wrong = wrong or _heads(model)
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:160]}"
    site = model.ffns[0].activation
    ffn = model.ffns[0]
    return Outcome(
        kind,
        "wrong" if wrong else "recorded",
        wrong or "",
        ("experts, " if model.mixtures else "")
        + ("gated" if ffn.gated else "plain")
        + (", fused" if len({id(part) for part in ffn.projections}) < len(ffn.projections) else "")
        + (", normed" if ffn.layout.normed else ""),
        model.widths,
        type(site).__name__ if isinstance(site, torch.nn.Module) else f"`{site.function}` in line",
        _head(model),
        len(_attentions(model)),
    )


def _attentions(model: ng.Model) -> list[Any]:
    try:
        return list(model.attentions)
    except ng.NeuroglotError:
        return []


@torch.no_grad()
def _heads(model: ng.Model) -> str | None:
    """Heads off equal zeroed columns of the output projections."""
    if not _attentions(model):
        return None
    chosen = torch.rand(model.shape("heads"), generator=torch.Generator().manual_seed(4)) < 0.5
    chosen[:, 0] = True
    first: dict[int, int] = {}
    for place, attention in enumerate(model.attentions):  # Zamba's layers share their weights
        chosen[place] = chosen[first.setdefault(attention.weight.data_ptr(), place)]
    intact = model.hidden_states(TOKENS).clone()
    with ng.intervene(model, ng.Deactivate(chosen, site="heads")):
        off = model.hidden_states(TOKENS).clone()
    kept = [attention.weight.clone() for attention in model.attentions]
    for attention, row in zip(model.attentions, chosen, strict=True):
        attention.weight[:, attention.columns[row[: attention.heads]].flatten()] = 0
    by_hand = model.hidden_states(TOKENS).clone()
    for attention, weight in zip(model.attentions, kept, strict=True):
        attention.weight.copy_(weight)
    if not torch.allclose(off, by_hand, rtol=1e-3, atol=1e-4):
        return f"heads that are off are not zeroed columns: {float((off - by_hand).abs().max()):.2g}"
    return "heads that are off change nothing" if float((off - intact).abs().max()) < 1e-6 else None


def _head(model: ng.Model) -> bool:
    try:
        with torch.no_grad():
            model.logits(model.hidden_states(TOKENS))
    except (ng.NeuroglotError, ValueError, RuntimeError):
        return False
    return True


@torch.no_grad()
def _counts(model: ng.Model) -> str | None:
    """A recording's counts and sums equal a plain loop over what enters and leaves the modules."""
    entered: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(model.layers)}
    acted: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(model.layers)}
    handles = []
    for layer, ffn in enumerate(model.ffns):
        handles += [
            ffn.down.register_forward_pre_hook(lambda _, args, i=layer: entered[i].append(args[0].clone())),
            ffn.activation.register_forward_hook(lambda _, __, out, i=layer: acted[i].append(out.clone())),
        ]
    blocks = torch.randint(3, 250, (6, 16), generator=torch.Generator().manual_seed(3))
    work = Work(("active", "hidden"), None, (), 64, Provenance(model="", fingerprint="", tokenizer="", block=16))
    recording = record_shard(model, Shard("en", 0, "", blocks), work.kept(model), work)
    for handle in handles:
        handle.remove()
    for layer, width in enumerate(model.widths):
        batches = [each.reshape(-1, 16, width)[:, 1:] for each in acted[layer]]
        active = sum((batch > 0).sum((0, 1)) for batch in batches)
        hidden = sum(each.reshape(-1, 16, width)[:, 1:].double().sum((0, 1)) for each in entered[layer])
        if not torch.equal(recording.active[layer, :width].sum(-1), active):
            return f"the counts of layer {layer} differ from a plain loop"
        if not torch.allclose(recording.sum("hidden")[layer, :width].sum(-1), hidden):
            return f"the sums of layer {layer} differ from a plain loop"
    return None


@torch.no_grad()
def _ablation(model: ng.Model) -> str | None:
    """Neurons off equal zeroed weights, and the model is as it was afterwards.

    A norm over the product sees a neuron that is off, so at its activation site that is a zeroed row of the
    up-projection, and at its hidden site a zeroed column of the down-projection.
    """
    chosen = (torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(2)) < 0.3) & model.exists
    first: dict[int, int] = {}
    for layer, ffn in enumerate(model.ffns):  # Zamba's layers share their weights
        chosen[layer] = chosen[first.setdefault(ffn.down_columns.data_ptr(), layer)]
    intact = model.hidden_states(TOKENS).clone()
    for site in ("activation", "hidden"):
        with ng.intervene(model, ng.Deactivate(chosen, site=site)):
            off = model.hidden_states(TOKENS).clone()
        kept = [(ffn.up_rows.clone(), ffn.down_columns.clone()) for ffn in model.ffns]
        for ffn, row in zip(model.ffns, chosen, strict=True):
            if ffn.layout.normed and site == "activation":
                ffn.up_rows[row[: ffn.neurons]] = 0
            else:
                ffn.down_columns[:, row[: ffn.neurons]] = 0
        by_hand = model.hidden_states(TOKENS).clone()
        for ffn, (up, down) in zip(model.ffns, kept, strict=True):
            ffn.up_rows.copy_(up)
            ffn.down_columns.copy_(down)
        if not torch.allclose(off, by_hand, rtol=1e-3, atol=1e-4):
            return f"neurons off at the {site} site are not zeroed weights: {float((off - by_hand).abs().max()):.2g}"
        if float((off - intact).abs().max()) < 1e-6:
            return f"neurons off at the {site} site change nothing"
        if not torch.equal(model.hidden_states(TOKENS), intact):
            return "the model is not as it was"
    return None
