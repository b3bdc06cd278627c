"""Tiny random models of every family, a byte tokenizer, and what their FFNs compute, written by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import neuroglot as ng

VOCABULARY = 256 + 2


def tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A token a byte; `<s>` begins a text if `bos`."""
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: index for index, name in enumerate([*names, "<s>", "</s>"])}
    bytewise = Tokenizer(BPE(vocabulary, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "add_bos_token": True} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token="</s>", pad_token="</s>", **special)


COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 257,
}


@dataclass(frozen=True)
class Tiny:
    """A family: its config, where a layer's FFN is, and that FFN by hand: (activation, hidden, output) of its input."""

    settings: dict[str, Any]
    ffn: Callable[[nn.Module], nn.Module]
    by_hand: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, Tensor]]
    layers: Callable[[Any], Any] = lambda network: network.model.layers
    neurons: int = 24


def gated(act: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Tensor], tuple[Tensor, Tensor, Tensor]]:
    def run(mlp: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        activation = act(x @ mlp.gate_proj.weight.T)
        hidden = activation * (x @ mlp.up_proj.weight.T)
        return activation, hidden, hidden @ mlp.down_proj.weight.T

    return run


def fused(mlp: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate, up = mlp.gate_up_proj.weight.chunk(2)
    activation = F.silu(x @ gate.T)
    hidden = activation * (x @ up.T)
    return activation, hidden, hidden @ mlp.down_proj.weight.T


def plain(first: str, second: str, act: Callable[[Tensor], Tensor], transposed: bool = False) -> Any:
    def run(mlp: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        one, two = getattr(mlp, first), getattr(mlp, second)
        turn = (lambda w: w) if transposed else (lambda w: w.T)
        activation = act(x @ turn(one.weight) + (0 if one.bias is None else one.bias))
        output = activation @ turn(two.weight) + (0 if two.bias is None else two.bias)
        return activation, activation, output

    return run


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def mlp(layer: Any) -> nn.Module:
    return layer.mlp


def h(network: Any) -> Any:
    return network.transformer.h


LLAMA_LIKE = {
    "llama": F.silu, "mistral": F.silu, "qwen2": F.silu, "qwen3": F.silu, "olmo": F.silu, "olmo2": F.silu,
    "smollm3": F.silu, "cohere": F.silu, "cohere2": F.silu, "granite": F.silu,
    "gemma": tanh_gelu, "gemma2": tanh_gelu, "gemma3_text": tanh_gelu,
}  # fmt: skip

FAMILIES: dict[str, Tiny] = {
    **{name: Tiny(COMMON, mlp, gated(act)) for name, act in LLAMA_LIKE.items()},
    "phi3": Tiny(COMMON, mlp, fused),
    "phi": Tiny(COMMON, mlp, plain("fc1", "fc2", tanh_gelu)),
    "opt": Tiny(
        {**COMMON, "ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": True},
        lambda layer: layer,
        plain("fc1", "fc2", F.relu),
        lambda network: network.model.decoder.layers,
    ),
    "xglm": Tiny(
        {**COMMON, "d_model": 16, "ffn_dim": 24, "num_layers": 3, "attention_heads": 2, "pad_token_id": 1},
        lambda layer: layer,
        plain("fc1", "fc2", F.gelu),
    ),
    "gpt2": Tiny(
        {**COMMON, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_inner": 24, "n_positions": 128},
        mlp, plain("c_fc", "c_proj", tanh_gelu, transposed=True), h,
    ),
    "bloom": Tiny(
        {**COMMON, "n_layer": 3, "n_head": 2}, mlp, plain("dense_h_to_4h", "dense_4h_to_h", tanh_gelu), h, 64
    ),
    "falcon": Tiny(
        {name: value for name, value in COMMON.items() if name != "head_dim"} | {"ffn_hidden_size": 24},
        mlp, plain("dense_h_to_4h", "dense_4h_to_h", F.gelu), h
    ),
    "gpt_neox": Tiny(
        COMMON, mlp, plain("dense_h_to_4h", "dense_4h_to_h", F.gelu), lambda network: network.gpt_neox.layers
    ),
}  # fmt: skip


def network(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random Hugging Face model of a family, with weights large enough that its neurons matter."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**FAMILIES[family].settings, **changes})
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.3)
            elif name.endswith("bias"):
                weight.normal_(0, 0.1)
    return made.eval()


def model(family: str = "llama", *, bos: bool = True, seed: int = 0, **changes: Any) -> ng.Model:
    """A random model of a family with the byte tokenizer."""
    return ng.Model(network(family, seed, **changes), tokenizer(bos), name=f"tiny-{family}")


def corpus(documents: int = 12) -> ng.Corpus:
    """Three languages that differ in their letters."""
    texts = {
        "en": [f"the {i} cats sat on the mat and slept there" for i in range(documents)],
        "fr": [f"çà et là, {i} étés où l'œuvre fut achevée" for i in range(documents)],
        "ru": [f"всё хорошо, {i} раз подряд" for i in range(documents)],
    }
    return ng.Corpus(texts, name="tiny corpus")
