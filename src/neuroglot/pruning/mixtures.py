"""Write a native mixture of experts with fewer experts a layer, and fewer neurons an expert."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from jaxtyping import Bool, Int64, Real
from torch import Tensor

from neuroglot.edit.interventions import Deactivate, check_mask, intervene
from neuroglot.edit.routing import DeactivateExperts
from neuroglot.errors import NeuroglotError
from neuroglot.experts.keep import MULTIPLE
from neuroglot.models.architecture.body import few_tokens
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.narrowing import COUNTS, WIDTHS, narrow
from neuroglot.models.architecture.undo import configure
from neuroglot.models.layer_widths import EXPERTS, without_weights
from neuroglot.models.model import Model
from neuroglot.storage.atomic import save_text

__all__ = ["expert_mask", "prune_mixture", "save_ranking"]

Kept = tuple[Int64[Tensor, " experts"], Int64[Tensor, "experts width"]]


def expert_mask(model: Model, experts: Bool[Tensor, "layers experts"]) -> Bool[Tensor, "layers neurons"]:
    """All neurons of a native mixture but those of experts that are not chosen; dense layers and shared experts stay.

    Raises:
        NeuroglotError: `experts` is not a boolean (L, E) of this model.
    """
    most = max(mixture.experts for mixture in model.mixtures.values())
    if experts.dtype != torch.bool or tuple(experts.shape) != (model.layers, most):
        raise NeuroglotError(f"experts must be a boolean tensor of {model.layers} layers × {most} experts.")
    mask = model.exists.clone()
    for layer, mixture in model.mixtures.items():
        own = experts[layer, : mixture.experts].repeat_interleave(mixture.width)
        mask[layer, : mixture.experts * mixture.width] = own
    return mask


@torch.no_grad()
def prune_mixture(model: Model, keep: Bool[Tensor, "layers neurons"], path: Path, made_from: str | None = None) -> Path:
    """Save a copy of a native mixture of experts with these neurons only.

    An expert that keeps no neuron is taken out, and out of the router's choice. The experts of a layer share a width:
    that of the one that keeps most, up to the next multiple of 8; the others are filled up with neurons that write
    nothing. The logits are those of `DeactivateExperts` on the experts that go, and `Deactivate` on the neurons that
    go of those that stay; on a few tokens that is tried.

    Args:
        model: whole and in memory; left as it was.
        keep: neurons of routed experts may go; dense layers and shared experts keep all.
        path: a new directory.
        made_from: a digest of what it is made from; see `Model.save`.

    Raises:
        NeuroglotError: fewer experts would be left in a layer than its router chooses, a neuron outside of routed
            experts would go, or the router is not known or chooses in another way.
    """
    check_mask(keep, (model.layers, model.neurons))
    kept = {layer: _kept(layer, mixture, keep[layer]) for layer, mixture in model.mixtures.items()}
    outside = model.exists & ~keep
    for layer, mixture in model.mixtures.items():
        outside[layer, : mixture.experts * mixture.width] = False
    if bool(outside.any()):
        layer = int(outside.any(1).nonzero()[0])
        raise NeuroglotError(
            f"Layer {layer + 1} would lose neurons of a shared expert or of a dense FFN; in a native mixture of "
            "experts only routed experts can be made smaller."
        )
    if getattr(model.text_config, "n_group", None) not in (None, 1):
        raise NeuroglotError(f"{model.name} chooses within groups of experts, which would no longer be equal.")
    tokens = few_tokens(model.network, 16)
    expected = _masked(model, keep, kept, tokens)
    with ExitStack() as restore:
        restore.callback(model.weights_changed)
        before = {layer: (mixture.experts, mixture.width) for layer, mixture in model.mixtures.items()}
        for layer, mixture in model.mixtures.items():
            restore.callback(narrow(mixture, *kept[layer]))
        for name, value in _config(model, before, restore).items():
            restore.callback(configure(model.text_config, name, value))
        got = model.hidden_states(tokens)
        allowed = 1e-3 if model.network.dtype == torch.float32 else 0.05
        if not float((got - expected).float().norm()) <= allowed * float(expected.float().norm()):
            raise NeuroglotError(
                f"With fewer experts {model.text_config.model_type} does not compute what it does with experts "
                "switched off, so its router chooses in a way that is not known; use DeactivateExperts instead."
            )
        model.save(path, made_from)
    return path


def _kept(layer: int, mixture: Mixture, keep: Bool[Tensor, " neurons"]) -> Kept:
    """Which experts of a layer stay, and which of their neurons, filled up with -1."""
    own = keep[: mixture.experts * mixture.width].view(mixture.experts, mixture.width).cpu()
    experts = own.any(1).nonzero().flatten()
    if len(experts) < mixture.routing.chosen:
        raise NeuroglotError(
            f"{len(experts)} of {mixture.experts} experts would be left in layer {layer + 1}, whose router chooses "
            f"{mixture.routing.chosen} for every token; keep more."
        )
    sizes = own[experts].sum(1)
    width = min(mixture.width, -(-int(sizes.max()) // MULTIPLE) * MULTIPLE)
    order = own[experts].to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return experts, order.masked_fill(torch.arange(width) >= sizes[:, None], -1)


def _masked(model: Model, keep: Tensor, kept: dict[int, Kept], tokens: Tensor) -> Tensor:
    """What the intact model gives with the same experts and neurons off."""
    most = max(mixture.experts for mixture in model.mixtures.values())
    off = torch.zeros(model.layers, most, dtype=torch.bool)
    for layer, mixture in model.mixtures.items():
        off[layer, : mixture.experts] = True
        off[layer, kept[layer][0]] = False
    steps = [DeactivateExperts(off)] if bool(off.any()) else []
    with intervene(model, *steps, Deactivate(model.exists & ~keep.cpu())):
        return model.hidden_states(tokens)


def _config(model: Model, before: dict[int, tuple[int, int]], restore: ExitStack) -> dict[str, object]:
    """What the config says of smaller experts: in the architecture's own words where it has them, else in ours."""
    config = model.text_config
    sizes = {(mixture.experts, mixture.width) for mixture in model.mixtures.values()}
    ours = [[mixture.experts, mixture.width] for mixture in model.mixtures.values()]
    if len(sizes) > 1 or len(set(before.values())) > 1:
        return {EXPERTS: ours}
    ((experts, width),) = sizes
    ((had, wide),) = set(before.values())
    said: dict[str, object] = {name: experts for name in COUNTS if getattr(config, name, None) == had}
    width_name = next((name for name in (WIDTHS[1], WIDTHS[2], *WIDTHS) if getattr(config, name, None) == wide), None)
    if width != wide and width_name is not None:
        said[width_name] = width
    with ExitStack() as trying:
        for name, value in said.items():
            trying.callback(configure(config, name, value))
        try:
            empty = without_weights(model.network.config).state_dict()
        except Exception:  # whatever an architecture says of a config that it cannot be built from
            return {EXPERTS: ours}
    own = model.network.state_dict()
    same = own.keys() == empty.keys() and all(own[name].shape == empty[name].shape for name in own)
    return said if same else {EXPERTS: ours}


def save_ranking(scores: Real[Tensor, "layers experts"], path: str | Path, layers: Sequence[int] | None = None) -> Path:
    """Write the experts of each layer in the order of their scores, the highest first, as JSON lines.

    Args:
        scores: (L, E), such as `experts.frequencies(recording)[k]`; of equal scores the lower number comes first.
        path: a `.jsonl` file: a line `{"0": [5, 2, …]}` a layer.
        layers: those that have a router (`experts.routing_layers`); by default all.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices.tolist()
    lines = [json.dumps({str(layer): order[layer]}) for layer in (range(len(order)) if layers is None else layers)]
    save_text(path, "".join(f"{line}\n" for line in lines))
    return Path(path)
