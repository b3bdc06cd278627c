"""A digest of all weights of a network, wherever and however they are stored."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from neuroglot.models.architecture.weights import is_readable, kept_buffers

__all__ = ["digest_of_weights"]


def digest_of_weights(network: Any, about: str) -> str:
    """A digest of every weight, the same in float32 and bfloat16, and of what is said about the architecture.

    Weights are parameters, and the buffers that a checkpoint keeps.
    """
    digest = hashlib.sha256(about.encode())
    buffers = {name: module.get_buffer(leaf) for name, module, leaf in kept_buffers(network)}
    weights = {**dict(network.named_parameters()), **buffers}
    for name, weight in sorted(weights.items()):  # a tied weight comes once
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type == "meta":
            weight = _offloaded(network, name)
            if weight is None:
                continue  # nowhere: its name and shape must do
        if not is_readable(weight):  # quantised: its bytes as they are
            for part in _packed_parts(weight):
                packed = part.detach().contiguous().flatten().view(torch.uint8)
                digest.update(
                    f"{int(packed.sum())}".encode() + packed[:: max(1, len(packed) // 64)].cpu().numpy().tobytes()
                )
            continue
        bits = weight.detach().flatten().to(torch.bfloat16)
        words = bits[: len(bits) // 4 * 4].clone().view(torch.int64)  # four weights at once; sums may wrap around
        digest.update(f"{int(words.sum())} {bits[len(words) * 4 :].tolist()}".encode())
        digest.update(bits[:: max(1, len(bits) // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _packed_parts(weight: Any) -> list[Tensor]:
    """The tensors of a weight that packs its numbers in a class of its own, as torchao's; itself if it does not."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    parts = (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
    return [inner for part in parts for inner in _packed_parts(part)]


def _offloaded(network: Any, name: str) -> Tensor | None:
    """A weight that accelerate keeps in memory or on disk until its layer runs."""
    module, _, leaf = name.rpartition(".")
    hook = getattr(network.get_submodule(module), "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        kept = getattr(each, "weights_map", None)
        if kept is not None:
            return torch.as_tensor(kept[leaf])
    return None
