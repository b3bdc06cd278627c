"""Recipes that are a control vector: one constant after each layer, as other engines add it to the residual stream.

llama.cpp adds `direction.i` to the stream that leaves layer i (from 0, and the first layer has none), on every token.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from neuroglot.edit.baking import check_streams, streams_under
from neuroglot.edit.interventions import MASKS, Add, Intervention, UnitChange
from neuroglot.edit.routing import Rerouting
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.atomic import atomic_path

__all__ = ["control_vector", "export", "on_the_stream"]


@torch.no_grad()
def on_the_stream(model: Model, steps: Sequence[UnitChange]) -> list[UnitChange]:
    """The same steps, where a constant added to neurons is the constant that the down-projection makes of it.

    That holds for `Add` at the site where neurons enter the down-projection, on all tokens, in a model that adds what
    the FFN gives to the stream as it is, which is tried on a few tokens. Other steps are left as they are.

    Raises:
        NeuroglotError: a norm or a factor stands between the FFN and the stream, as in Gemma.
    """
    moved: list[UnitChange] = []
    for step in steps:
        enters = step.site == "hidden" or (step.site == "activation" and model.ffns[0].one_site)
        if type(step) is not Add or not enters or step.when != "both" or model.mixtures:
            moved.append(step)
            continue
        values = torch.as_tensor(step.values, dtype=torch.float64).cpu().expand(step.neurons.shape) * step.strength
        added = torch.where(step.neurons.cpu(), values, 0.0)
        vectors = torch.stack(
            [
                (ffn.down_columns.double() @ some[: ffn.neurons].to(ffn.down_columns.device)).cpu()
                for ffn, some in zip(model.ffns, added, strict=True)
            ]
        )
        acts = step.neurons.cpu().any(1, keepdim=True).expand(vectors.shape)
        constant = Add(acts, vectors, site="residual")
        _check(model, step, constant)
        moved.append(constant)
    return moved


def _check(model: Model, step: Add, constant: Add) -> None:
    """Refuse if the streams differ, also when both are as long as it is: a short one would hide what a norm does."""
    intact = streams_under(model, ())
    ratios = [
        float(stream.norm(dim=-1).mean() / vector.norm())
        for stream, vector in zip(intact, torch.as_tensor(constant.values), strict=True)
        if bool(vector.any())
    ]
    times = max([1.0, *ratios])
    larger: list[list[Intervention]] = [[replace(each, strength=times * each.strength)] for each in (constant, step)]
    check_streams(model, *(streams_under(model, some) for some in larger))


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
                "the recipe, or bake it. Only Add where neurons enter the down-projection is one."
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
    vectors = total.to(torch.float32)
    if not bool(vectors.isfinite().all()):
        raise NeuroglotError("This recipe adds more than float32 holds; make it with a smaller strength.")
    if not bool(vectors.any()):
        raise NeuroglotError("This recipe adds nothing, so there is no control vector; its strength may be 0.")
    return vectors


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
