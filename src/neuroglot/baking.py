"""Write an intervention into the weights: an ordinary checkpoint that needs no Neuroglot to run."""

from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.files import whole
from neuroglot.interventions import check_mask
from neuroglot.model import Model

__all__ = ["bake"]


@torch.no_grad()
def bake(model: Model, neurons: Bool[Tensor, "layers neurons"], path: str | Path) -> Path:
    """Save a copy of the model with these neurons deactivated: its logits are those under `Deactivate(neurons)`.

    The columns of the down-projection that the neurons feed are set to zero in the file; the model itself is left as
    it was. The directory opens with `load_model` and with plain transformers.

    Raises:
        NeuroglotError: `neurons` is not a boolean (L, N) of this model, its weights are not all in memory, or `path`
            exists or cannot be written.
    """
    check_mask(neurons, (model.layers, model.neurons))
    path = Path(path)
    if path.exists():
        raise NeuroglotError(f"{path} exists; choose a new directory for the baked model.")
    columns = [ffn.down_columns for ffn in model.ffns]
    if any(weight.device.type == "meta" or not weight.is_floating_point() for weight in columns):
        raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, without device_map, to bake it.")
    kept = [weight[:, chosen.to(weight.device)].clone() for weight, chosen in zip(columns, neurons, strict=True)]
    try:
        for weight, chosen in zip(columns, neurons, strict=True):
            weight[:, chosen.to(weight.device)] = 0
        with whole(path) as draft:
            model.network.save_pretrained(draft)
            model.tokenizer.save_pretrained(draft)
    finally:
        for weight, chosen, values in zip(columns, neurons, kept, strict=True):
            weight[:, chosen.to(weight.device)] = values
    return path
