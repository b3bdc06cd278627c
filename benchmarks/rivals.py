"""The same statistics as others would take them: counts of active neurons, (L, N), over the same tokens.

Each function takes a model and gives a function of a list of batches of tokens. BOS is not counted.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

import neuroglot as ng

__all__ = ["nnsight", "per_sentence", "plain_hooks", "transformer_lens"]

Count = Callable[[Sequence[Tensor]], Tensor]


def plain_hooks(model: ng.Model) -> Count:
    """Forward hooks as one writes them: a boolean sum of each activation."""

    @torch.inference_mode()
    def count(batches: Sequence[Tensor]) -> Tensor:
        counts = torch.zeros(model.layers, model.neurons, dtype=torch.int64)

        def hook_of(layer: int) -> Callable[..., None]:
            def hook(_: object, __: object, output: Tensor) -> None:
                counts[layer] += (output[:, 1:] > 0).sum((0, 1))

            return hook

        handles = [ffn.activation.register_forward_hook(hook_of(layer)) for layer, ffn in enumerate(model.ffns)]
        for batch in batches:
            model.network.base_model(batch, use_cache=False)
        for handle in handles:
            handle.remove()
        return counts

    return count


def per_sentence(model: ng.Model) -> Count:
    """As the papers' published code: one text at a time, `generate` of one token, a copy to the host a layer."""

    @torch.inference_mode()
    def count(batches: Sequence[Tensor]) -> Tensor:
        counts = torch.zeros(model.layers, model.neurons, dtype=torch.int64)
        kept: list[Tensor] = []
        handles = [
            ffn.activation.register_forward_hook(lambda _, __, output: kept.append(output.float().cpu()))
            for ffn in model.ffns
        ]
        for batch in batches:
            for row in batch:
                kept.clear()
                model.network.generate(
                    row[None], attention_mask=torch.ones_like(row[None]), max_new_tokens=1, do_sample=False
                )
                for layer, activation in enumerate(kept):
                    counts[layer] += (activation[:, 1:] > 0).sum((0, 1))
        for handle in handles:
            handle.remove()
        return counts

    return count


def transformer_lens(model: ng.Model, directory: str) -> Count:
    """`run_with_cache` of TransformerLens on the gates; a gate's sign is that of SiLU and GELU of it."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(directory, hf_model=model.network, tokenizer=model.tokenizer)
    names = [f"blocks.{layer}.mlp.gate.hook_out" for layer in range(model.layers)]

    @torch.inference_mode()
    def count(batches: Sequence[Tensor]) -> Tensor:
        counts = torch.zeros(model.layers, model.neurons, dtype=torch.int64)
        for batch in batches:
            _, cache = bridge.run_with_cache(batch, names_filter=names, return_type=None)
            for layer, name in enumerate(names):
                counts[layer] += (cache[name][:, 1:] > 0).sum((0, 1))
        return counts

    return count


def nnsight(model: ng.Model) -> Count:
    """A trace of nnsight that saves every activation."""
    from nnsight import TransformersModel, save

    traced = TransformersModel(model.network, tokenizer=model.tokenizer)

    @torch.inference_mode()
    def count(batches: Sequence[Tensor]) -> Tensor:
        counts = torch.zeros(model.layers, model.neurons, dtype=torch.int64)
        for batch in batches:
            with traced.trace(batch):
                kept = save([])
                for layer in traced.model.layers:
                    kept.append(layer.mlp.act_fn.output)
            for layer, activation in enumerate(kept):
                counts[layer] += (activation[:, 1:] > 0).sum((0, 1))
        return counts

    return count
