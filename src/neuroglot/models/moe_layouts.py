"""The ordinary mixture of experts whose block is a dense architecture's own, and a network of it.

What is no FFN is the same in both, so it is copied. Gemma 3 has its equal in Gemma 4, in other weights: see `_gemma`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.find import without_empty_warnings
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.model import Model

__all__ = ["MoeLayout", "layout_of", "moe_network"]

Weights = dict[str, Tensor]
FIRST_NORM = 1024.0  # the weight of the first of Gemma 4's two norms after the experts


@dataclass(frozen=True)
class MoeLayout:
    """How a dense architecture is said as a mixture of experts.

    Attributes:
        kind: the model type of transformers.
        settings: from the dense config, the experts and their width: what the config says besides what both have.
        chosen: the config's name for the number of experts that a token is given.
        normalised: whether the weights of the chosen experts add up to 1; else those of all do.
        weights: the dense weights that are no FFN, as this architecture keeps them.
        refusal: of a config: what the layout has no word for.
    """

    kind: str
    settings: Callable[[Any, int, int], dict[str, Any]]
    chosen: str = "num_experts_per_tok"
    normalised: bool = False
    weights: Callable[[Weights, Any], Weights] = lambda weights, _: weights
    refusal: Callable[[Any], str | None] = lambda _: None

    def prepare_router(self, mixture: Mixture, dense: nn.Module) -> None:
        """See that the router reads what the experts read, as its weights are fitted on that."""
        block: Any = mixture.routing.block
        if self.kind == "gemma4_text":
            weight: Tensor = dense.pre_feedforward_layernorm.weight  # type: ignore[assignment,union-attr]
            block.router.scale.copy_((1 + weight) * math.sqrt(weight.numel()))
            # so small that the first of two norms only scales, and the second meets the epsilon of the one there was
            block.router.per_expert_scale.fill_(math.sqrt(block.config.rms_norm_eps) / FIRST_NORM)

    def scale(self, mixture: Mixture, factor: float) -> None:
        """Multiply what all experts give, which their router weighs by one over their number."""
        block: Any = mixture.routing.block
        if self.kind == "gemma4_text":
            block.router.per_expert_scale.mul_(factor)
        else:
            mixture.weights.down.mul_(factor)


def layout_of(model: Model) -> MoeLayout:
    """The layout of a dense model.

    Raises:
        NeuroglotError: no mixture of experts of transformers computes what its block does.
    """
    model.check_dense("it needs no experts made", "it has its own")
    config = model.text_config
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        raise NeuroglotError(
            f"No mixture of experts in transformers is known whose block is that of {config.model_type}; moefy takes "
            f"{', '.join(LAYOUTS)}."
        )
    if reason := layout.refusal(config):
        raise NeuroglotError(f"{model.name} cannot be written as {layout.kind}: {reason}.")
    return layout


@torch.no_grad()
def moe_network(model: Model, layout: MoeLayout, experts: int, width: int) -> Any:
    """A network of the layout with all that is no FFN copied, all experts chosen, and experts yet to be filled."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    dense = model.text_config
    known = CONFIG_MAPPING[layout.kind]().to_dict()
    said = {name: value for name, value in dense.to_dict().items() if name in known and name not in OWN}
    made = {**said, **layout.settings(dense, experts, width), layout.chosen: experts}
    config = CONFIG_MAPPING[layout.kind](**made)
    with without_empty_warnings():
        network = AutoModelForCausalLM.from_config(config, dtype=model.network.dtype)
    ffn = {name for name, _ in _named_ffn(model)}
    weights = {name: weight.detach().cpu() for name, weight in model.network.state_dict().items() if name not in ffn}
    missing, unexpected = network.load_state_dict(layout.weights(weights, dense), strict=False)
    filled = (".experts.", ".router.", ".mlp.")
    odd = [*unexpected, *(name for name in missing if not any(part in name for part in filled))]
    if odd:
        raise NeuroglotError(f"{model.name} is built otherwise than {layout.kind}, which differs in {odd[0]}.")
    if model.network.generation_config is not None:
        network.generation_config = model.network.generation_config
    return network.eval()


def _named_ffn(model: Model) -> Iterator[tuple[str, Tensor]]:
    parts = {id(part) for ffn in model.ffns for part in ffn.projections}
    for name, module in model.network.named_modules():
        if id(module) in parts:
            yield from ((f"{name}.{inner}", weight) for inner, weight in module.named_parameters())


def _plain_llama(config: Any) -> str | None:
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        return "its projections have biases"
    return None


def _no_window(config: Any) -> str | None:
    return "some of its layers read through a window" if config.use_sliding_window else None


def _as_gemma4(config: Any) -> str | None:
    if config.layer_types[-1] != "full_attention":
        return "its last layer reads through a window, where Gemma 4's never does"
    if config.attn_logit_softcapping is not None or config.use_bidirectional_attention or config.attention_bias:
        return "its attention is not that of a Gemma 3 text model"
    if any(each.get("rope_type") not in ("default", "linear") for each in config.rope_parameters.values()):
        return "its positions are scaled in a way that is not known"
    return None


def _gemma_settings(config: Any, experts: int, width: int) -> dict[str, Any]:
    turns = {
        kind: {**each, "rope_theta": each["rope_theta"] ** 2} for kind, each in config.rope_parameters.items()
    }  # in twice the dimensions, the first half of the frequencies are those that there were
    return {
        "enable_moe_block": True, "num_experts": experts, "moe_intermediate_size": width, "intermediate_size": 0,
        "head_dim": 2 * config.head_dim, "global_head_dim": 2 * config.head_dim, "attention_bias": True,
        "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "attention_k_eq_v": False,
        "use_bidirectional_attention": None, "rope_parameters": turns, "layer_types": list(config.layer_types),
    }  # fmt: skip


def _gemma(weights: Weights, config: Any) -> Weights:
    """Gemma 3's weights as Gemma 4's.

    Norms: 1 + w is written as w. What the experts give, x of mean square m, is normed twice, and made so small that the
    first norm only scales: of c·a·x / √(a²m + ε) the second makes x / √(m + ε + ε·m/c²), where a = √ε/c. The dense FFN
    beside the experts has no neurons. Gemma 4 norms values, too, which Gemma 3 does not: each head has twice its
    dimensions, and among the new ones of a value is a constant so large (from a bias) that the norm divides by no more
    than that; the output projection takes it back. Queries and keys have zeros there, and √2 makes up for them in their
    norms.
    """
    made: Weights = {}
    size, half = config.head_dim, config.head_dim // 2
    big = 2.0**16
    constants = 1 if math.isqrt(2 * size) ** 2 == 2 * size else 2  # so that bfloat16 has the constant exactly
    for name, weight in weights.items():
        stem, _, part = name.rpartition("self_attn.")
        if part in ("q_proj.weight", "k_proj.weight"):
            heads = weight.view(-1, size, weight.shape[1])
            wide = heads.new_zeros(len(heads), 2 * size, weight.shape[1])
            wide[:, :half], wide[:, size : size + half] = heads[:, :half], heads[:, half:]
            made[name] = (wide.flatten(0, 1).double() * math.sqrt(2)).to(weight.dtype)
        elif part in ("q_norm.weight", "k_norm.weight"):
            wide = torch.ones(2 * size, dtype=torch.float64)
            own = (1 + weight.double()) / math.sqrt(2)
            if part == "q_norm.weight":
                own = own * config.query_pre_attn_scalar**-0.5
            wide[:half], wide[size : size + half] = own[:half], own[half:]
            made[name] = wide.to(weight.dtype)
        elif part == "v_proj.weight":
            heads = weight.view(-1, size, weight.shape[1])
            made[name] = torch.cat([heads, torch.zeros_like(heads)], 1).flatten(0, 1)
            bias = weight.new_zeros(len(heads), 2 * size)
            bias[:, size : size + constants] = big * math.sqrt(2 * size / constants)
            made[f"{stem}self_attn.v_proj.bias"] = bias.flatten()
        elif part == "o_proj.weight":
            heads = weight.view(len(weight), -1, size) * big
            made[name] = torch.cat([heads, torch.zeros_like(heads)], 2).flatten(1)
            made[f"{stem}self_attn.o_proj.bias"] = weight.new_zeros(len(weight))
        elif "norm" in name:
            at = name.replace("pre_feedforward_layernorm", "pre_feedforward_layernorm_2")
            made[at] = 1 + weight
            if "pre_feedforward" in name:
                made[name] = torch.ones_like(weight)
                first = name.replace("pre_feedforward", "post_feedforward").removesuffix(".weight")
                made[f"{first.rpartition('.')[0]}.layer_scalar"] = weight.new_ones(1)
                made[f"{first}_1.weight"] = torch.ones_like(weight)
                made[f"{first}_2.weight"] = torch.full_like(weight, FIRST_NORM)
        else:
            made[name] = weight
    for name in [name for name in made if name.endswith(("q_proj.weight", "k_proj.weight"))]:
        made[name.replace("weight", "bias")] = made[name].new_zeros(len(made[name]))
    return made


OWN = ("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "per_layer_config")

LAYOUTS: dict[str, MoeLayout] = {
    "llama": MoeLayout(
        "mixtral",
        lambda _, experts, width: {"num_local_experts": experts, "intermediate_size": width, "sliding_window": None},
        normalised=True,
        refusal=_plain_llama,
    ),
    "mistral": MoeLayout(
        "mixtral",
        lambda config, experts, width: {"num_local_experts": experts, "intermediate_size": width},
        normalised=True,
    ),
    "qwen2": MoeLayout(
        "qwen2_moe",
        lambda _, experts, width: {
            "num_experts": experts, "moe_intermediate_size": width, "shared_expert_intermediate_size": 0,
            "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [], "qkv_bias": True,
        },
    ),
    "qwen3": MoeLayout(
        "qwen3_moe",
        lambda _, experts, width: {
            "num_experts": experts, "moe_intermediate_size": width, "norm_topk_prob": False,
            "decoder_sparse_step": 1, "mlp_only_layers": [],
        },
        refusal=_no_window,
    ),
    "gemma3_text": MoeLayout(
        "gemma4_text", _gemma_settings, chosen="top_k_experts", normalised=True, weights=_gemma, refusal=_as_gemma4
    ),
}  # fmt: skip
"""By the model type of the dense architecture."""
