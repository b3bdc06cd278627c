"""Recipes that are a control vector: one constant after each layer, as other engines add it to the residual stream.

llama.cpp adds `direction.i` to the stream that leaves layer i (from 0, and the first layer has none), on every token.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from neuroglot.edit.interventions import MASKS, Add, UnitChange
from neuroglot.edit.routing import Rerouting
from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import atomic_path

__all__ = ["control_vector", "export"]


def control_vector(steps: Sequence[UnitChange]) -> Float32[Tensor, "layers width"]:
    """What steps add after every layer, if that is all they do.

    Raises:
        NeuroglotError: a step does something else, which is said.
    """
    if not steps:
        raise NeuroglotError("This recipe does nothing, so there is no control vector.")
    total: Tensor = torch.zeros(steps[0].units.shape, dtype=torch.float64)
    for step in steps:
        kind = type(step).__name__
        if isinstance(step, Rerouting) or step.site != "residual":
            units = MASKS.get(step.site, "neurons")
            raise NeuroglotError(
                f"{kind} at {step.site} acts on {units}, and a control vector is added to the residual stream; keep "
                "the recipe, or bake it."
            )
        if not isinstance(step, Add):
            raise NeuroglotError(f"{kind} depends on the stream, and a control vector is a constant; keep the recipe.")
        if step.when != "both":
            raise NeuroglotError(
                f"This recipe acts on {step.when} tokens only, and engines add a control vector on all; keep the "
                "recipe."
            )
        values = torch.as_tensor(step.values, dtype=torch.float64).cpu() * step.strength
        total = total + torch.where(step.neurons.cpu(), values, 0.0)
    return total.to(torch.float32)


def export(steps: Sequence[UnitChange], path: str | Path, hint: str) -> Path:
    """Write the control vector: a .gguf for llama.cpp, or a .safetensors with `layer.i` for each layer it acts after.

    Raises:
        NeuroglotError: it is none, or acts after the first layer where llama.cpp cannot; or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".gguf", ".safetensors"):
        raise NeuroglotError(f"{path.name} should end in .gguf (llama.cpp) or .safetensors (other engines).")
    vectors = control_vector(steps)
    layers = [layer for layer, some in enumerate(vectors.any(1).tolist()) if some]
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        tensors = {f"layer.{layer}": vectors[layer].clone() for layer in layers}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, {"format": "pt", "model": hint, "layers": str(len(vectors))})
        return path
    if 0 in layers:
        raise NeuroglotError(
            "llama.cpp adds no control vector after the first layer; make the recipe with layers from 1, such as "
            f"layers=range(1, {len(vectors)})."
        )
    import gguf

    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "controlvector")
        writer.add_string("controlvector.model_hint", hint)
        writer.add_uint32("controlvector.layer_count", len(layers))
        for layer in layers:
            writer.add_tensor(f"direction.{layer}", vectors[layer].numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path
