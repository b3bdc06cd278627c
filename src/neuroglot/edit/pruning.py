"""Write a model that has only some of its neurons: smaller on disk, in memory and in FLOPs."""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from neuroglot.edit.interventions import check_mask
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import is_matrix
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.layer_widths import WIDTHS
from neuroglot.models.model import Model
from neuroglot.storage.made import is_made

__all__ = ["Size", "largest_budget", "prune", "size"]


@torch.no_grad()
def prune(model: Model, keep: Bool[Tensor, "layers neurons"], path: str | Path) -> Path:
    """Save a copy of the model with these neurons only (Liu et al. 2024, §4.5).

    Its logits are those of `Deactivate(~keep)`, to rounding. Layers may keep different numbers. `load_model` opens the
    directory; plain transformers does too where all layers keep the same number and the architecture lets its config
    say how many (all but BLOOM). The model itself is left as it was.

    Raises:
        NeuroglotError: `keep` is not a boolean (L, N) of this model or keeps nothing in a layer, the weights are not
            all in memory, or `path` exists or cannot be written.
    """
    check_mask(keep, (model.layers, model.neurons))
    model.check_dense("its experts share one width and cannot be narrowed by neuron", "deactivate the neurons instead")
    keep = keep & model.exists
    path = Path(path)
    made_from = kept_digest(keep, model.fingerprint, str(model.network.dtype))
    if is_made(path, made_from, "pruned model"):
        return path
    widths = keep.sum(1).tolist()
    if 0 in widths:
        raise NeuroglotError(f"Nothing would be kept in layer {widths.index(0) + 1}; keep at least one neuron a layer.")
    if any(ffn.down_columns.device.type == "meta" or not ffn.up_rows.is_floating_point() for ffn in model.ffns):
        raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, without device_map, to prune it.")
    said = model.ffns[0].layout.width
    even = len(set(widths)) == 1 and bool(said)
    with ExitStack() as restore:
        for ffn, kept in zip(model.ffns, keep, strict=True):
            restore.callback(ffn.keep(kept.nonzero().flatten()))
        if even:
            restore.callback(_configure(model.text_config, said, widths[0]))
        else:
            restore.callback(_configure(model.text_config, WIDTHS, widths))
        model.save(path, made_from)
    return path


def kept_digest(keep: Bool[Tensor, "layers neurons"], *bound: str) -> str:
    """A digest of which neurons are kept, and of what."""
    about = f"{bound} {tuple(keep.shape)}".encode()
    return hashlib.sha256(about + keep.cpu().contiguous().numpy().tobytes()).hexdigest()[:32]


def _configure(config: Any, name: str, value: Any) -> Callable[[], None]:
    """Set a value of a config, and give a function that undoes it."""
    missing = object()
    old = getattr(config, name, missing)
    setattr(config, name, value)
    return lambda: delattr(config, name) if old is missing else setattr(config, name, old)


@dataclass(frozen=True)
class Size:
    """What a model costs.

    Attributes:
        parameters: all weights, a shared one once.
        ffn_parameters: those that belong to FFN neurons.
        flops: floating-point operations a token: two for each weight of a matrix it is multiplied with, the
            language-model head among them. Attention over the context is not counted, as it depends on its length.
        body_flops: the same without the head.
    """

    parameters: int
    ffn_parameters: int
    flops: int
    body_flops: int


def size(network: nn.Module) -> Size:
    """Count what a Hugging Face model costs; its weights may be on the meta device (`AutoModel.from_config`)."""
    ffns = find_ffns(network)
    ffn = sum(
        f.up_rows.numel() + f.down_columns.numel() + (0 if f.gate_rows is None else f.gate_rows.numel()) for f in ffns
    )
    head = network.get_output_embeddings()  # type: ignore[operator]
    products = [m.get_parameter("weight").numel() for m in network.modules() if is_matrix(m) and m is not head]
    return Size(
        parameters=sum(weight.numel() for weight in network.parameters()),
        ffn_parameters=ffn,
        flops=2 * (sum(products) + head.weight.numel()),
        body_flops=2 * sum(products),
    )


def largest_budget(measure: Callable[[float], float], limit: float, *, steps: int = 6, highest: float = 0.9) -> float:
    """The largest budget whose measured increase stays within a limit, by halving an interval.

    Args:
        measure: from a budget (a share of the experts to remove) to the relative increase of perplexity.
        limit: the largest increase allowed; 0.05 is 5 %.
        steps: how often the interval is halved: the answer is within `highest / 2**steps` if the increase grows with
            the budget.
        highest: the budget above which nothing is looked for.

    Returns:
        A budget that was itself measured to be within the limit, or 0.

    Raises:
        NeuroglotError: the limit is negative.
    """
    if limit < 0:
        raise NeuroglotError(f"The limit of the increase must be at least 0, not {limit:g}.")
    low, high = 0.0, highest
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) <= limit else (low, middle)
    return low
