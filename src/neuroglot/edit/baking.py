"""Write an intervention into the weights: an ordinary checkpoint that needs no Neuroglot to run."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from neuroglot.edit.conditions import digest_of_steps
from neuroglot.edit.interventions import (
    Add,
    Deactivate,
    Intervention,
    Replace,
    Scale,
    UnitChange,
    check_intervention,
    intervene,
)
from neuroglot.edit.router_biases import change_routers
from neuroglot.edit.routing import Rerouting
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import few_tokens
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.hooks import observe_residual
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.model import Model
from neuroglot.storage.made import is_made

__all__ = ["bake", "check_streams", "streams_under"]

Affine = tuple[Float64[Tensor, "layers neurons"], Float64[Tensor, "layers neurons"]]


@torch.no_grad()
def bake(
    model: Model, changes: Bool[Tensor, "layers neurons"] | UnitChange | Sequence[UnitChange], path: str | Path
) -> Path:
    """Save a copy of the model with interventions in its weights: its logits are those under them.

    What can be said in weights is what makes the input of the down-projection `gain · hidden + shift`, neuron by
    neuron: `Deactivate` and `Scale` at either site (columns of the down-projection, every family); `Replace` and `Add`
    at the hidden site, where a plain FFN's two sites are one (the down-projection's bias: families that have one, and
    those whose config can give one, `mlp_bias`, as Llama's). `Add` on
    the residual stream is that bias, too, where nothing norms or scales what the FFN gives, which is tried on a few
    tokens. `Raise` depends on the input, and `when` on the position:
    neither can be. Of a native mixture of experts neurons are deactivated and scaled in the same way, and experts are
    taken out or favoured where its router has a bias that says it (gpt-oss, DeepSeek-V3 …). The model itself is left as
    it was. The directory opens with `load_model` and plain transformers.

    Args:
        model: whole and in memory.
        changes: interventions, in their order; or a mask, of neurons to deactivate.
        path: a new directory, or one that holds just this already.

    Raises:
        NeuroglotError: a change cannot be said in this family's weights or is of another shape, the weights are not all
            in memory, or `path` exists or cannot be written.
    """
    given = [Deactivate(changes)] if isinstance(changes, Tensor) else changes
    everything = [given] if isinstance(given, Intervention | Rerouting) else list(given)
    for each in everything:
        check_intervention(each, model)
    steps = [step for step in everything if isinstance(step, Intervention)]
    for step in steps:
        _check_said_in_weights(model, step)
    routed = [step for step in everything if isinstance(step, Rerouting)]
    if any(step.site == "heads" for step in steps):
        raise NeuroglotError("Interventions on heads cannot be baked yet; keep them as a recipe.")
    path = Path(path)
    made_from = digest_of_steps(everything, model.fingerprint, str(model.network.dtype))
    if is_made(path, made_from, "baked model"):
        return path
    if not all(ffn.readable for ffn in model.ffns):
        raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, without device_map, to bake it.")
    if model.mixtures and any(isinstance(step, Replace | Add) for step in steps):
        raise NeuroglotError(
            f"A constant needs a bias after each of {model.name}'s experts, and weights have no place for it; keep the "
            "recipe. Deactivation and scaling can be baked."
        )
    gain, shift = _affine(model, [step for step in steps if step.site != "residual"])
    constants = _stream_constants([step for step in steps if step.site == "residual"])
    expected = streams_under(model, steps) if constants is not None else []
    undo: list[Callable[[], None]] = []
    try:
        if bool(shift.any()) or constants is not None:
            undo += _give_biases(model)
        for ffn, more, constant in zip(model.ffns, gain, shift, strict=True):
            undo += _write(ffn, more[: ffn.neurons], constant[: ffn.neurons])
        if constants is not None:
            undo += _add_to_stream(model, constants)
            check_streams(model, streams_under(model, ()), expected)
        undo += change_routers(model, routed)
        model.save(path, made_from)
    finally:
        for step_back in reversed(undo):
            step_back()
    return path


def _check_said_in_weights(model: Model, step: Intervention) -> None:
    """Refuse a step that these weights cannot say, whatever it does.

    Raises:
        NeuroglotError: a norm follows its site, or layers share their weights and it differs between them.
    """
    kind = type(step).__name__
    if step.site == "activation" and any(ffn.layout.normed for ffn in model.ffns):
        raise NeuroglotError(
            f"{kind} at the activation site of {model.text_config.model_type} changes what a norm makes of the other "
            "neurons, which no weight can hold; use the hidden site."
        )
    if model.shared is not None:
        one, two = model.shared
        raise NeuroglotError(
            f"Layers {one + 1} and {two + 1} of {model.name} share one set of weights, which cannot be changed in one "
            "of them; put the interventions in force instead."
        )


def _affine(model: Model, steps: Sequence[Intervention]) -> Affine:
    """What the steps together make of each neuron where it enters the down-projection: its gain and its shift."""
    gain = torch.ones(model.layers, model.neurons, dtype=torch.float64)
    shift = torch.zeros_like(gain)
    gated = not model.ffns[0].one_site
    # the activation site comes first, whatever the order they were given in
    for step in sorted(steps, key=lambda step: gated and step.site == "hidden"):
        kind, chosen = type(step).__name__, step.neurons.cpu()
        if step.when != "both":
            raise NeuroglotError(f"{kind} on {step.when} tokens only depends on the position, which no weight knows.")
        values = torch.as_tensor(getattr(step, "values", 0.0), dtype=torch.float64).cpu()
        values = (values * getattr(step, "strength", 1.0)).expand_as(gain)[chosen]
        if isinstance(step, Deactivate):
            gain[chosen] = shift[chosen] = 0.0
        elif isinstance(step, Scale):
            gain[chosen] *= values
            shift[chosen] *= values
        elif isinstance(step, Replace | Add) and (step.site == "hidden" or not gated):
            shift[chosen] = values if isinstance(step, Replace) else shift[chosen] + values
            if isinstance(step, Replace):
                gain[chosen] = 0.0
        elif isinstance(step, Replace | Add):
            raise NeuroglotError(
                f"{kind} at the activation site of a gated FFN is multiplied by the up-projection, so it is no "
                "constant and no weight can hold it; use the hidden site, or keep it as a recipe."
            )
        else:
            raise NeuroglotError(f"{kind} depends on the input, so no weight can hold it; keep it as a recipe.")
    return gain, shift


def _give_biases(model: Model) -> list[Callable[[], None]]:
    """See that every down-projection has a bias, and give functions that undo it."""
    if all(getattr(ffn.down, "bias", None) is not None for ffn in model.ffns):
        return []
    config = model.text_config
    if getattr(config, "mlp_bias", None) is not False:
        raise NeuroglotError(
            f"A constant needs a bias in the down-projection, and {config.model_type} has none in its architecture; "
            "keep it as a recipe. Deactivation and scaling can be baked."
        )
    undo: list[Callable[[], None]] = []
    for ffn in model.ffns:
        for projection in {id(part): part for part in ffn.projections}.values():
            bias = torch.zeros(projection.out_features, dtype=projection.weight.dtype, device=projection.weight.device)  # type: ignore[call-overload]
            projection.bias = nn.Parameter(bias, requires_grad=False)
            undo.append(_setter(projection, "bias", None))
    config.mlp_bias = True
    undo.append(_setter(config, "mlp_bias", False))
    return undo


def _write(ffn: FFN, gain: Float64[Tensor, " neurons"], shift: Float64[Tensor, " neurons"]) -> list[Callable[[], None]]:
    """Put one layer's gains and shifts into its down-projection, and give functions that undo it."""
    if isinstance(ffn, Mixture):
        return _write_experts(ffn, gain, shift)
    weight = ffn.down_columns
    undo: list[Callable[[], None]] = []
    if bool(shift.any()):
        bias: Any = ffn.down.bias
        old_bias = bias.clone()
        new = bias.double() + weight.double() @ shift.to(weight.device)
        bias.copy_(new.to(bias.dtype))
        undo.append(lambda: bias.copy_(old_bias))
    changed = (gain != 1).nonzero().flatten().to(weight.device)
    if len(changed):
        old = weight[:, changed].clone()
        weight[:, changed] = (old.double() * gain.to(weight.device)[changed]).to(weight.dtype)

        def put_back() -> None:
            weight[:, changed] = old

        undo.append(put_back)
    return undo


def _write_experts(
    mixture: Mixture, gain: Float64[Tensor, " neurons"], shift: Float64[Tensor, " neurons"]
) -> list[Callable[[], None]]:
    """The same of all experts of a layer, and of the FFNs beside them."""
    own = mixture.experts * mixture.width
    undo: list[Callable[[], None]] = []
    if bool((gain[:own] != 1).any()):
        down = mixture.weights.down
        old = down.clone()
        factor = gain[:own].view(mixture.experts, 1, mixture.width).to(down.device)
        down.copy_((old.double() * factor).to(down.dtype))

        def put_back() -> None:
            down.copy_(old)

        undo.append(put_back)
    for ffn, part in mixture.parts:
        undo += _write(ffn, gain[part], shift[part])
    return undo


def _setter(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _stream_constants(steps: Sequence[Intervention]) -> Float64[Tensor, "layers width"] | None:
    """What steps add to the residual stream after each layer; None if there are none."""
    total = None
    for step in steps:
        kind = type(step).__name__
        if not isinstance(step, Add):
            raise NeuroglotError(
                f"{kind} on the residual stream changes what earlier layers left there, which the layer's weights "
                "cannot; only Add can be baked, so keep it as a recipe."
            )
        if step.when != "both":
            raise NeuroglotError(f"{kind} on {step.when} tokens only depends on the position, which no weight knows.")
        values = torch.as_tensor(step.values, dtype=torch.float64).cpu() * step.strength
        added = torch.where(step.neurons.cpu(), values, 0.0)
        total = added if total is None else total + added
    return total


def _add_to_stream(model: Model, constants: Float64[Tensor, "layers width"]) -> list[Callable[[], None]]:
    """Put a layer's constant into its down-projection's bias, and give functions that undo it."""
    undo: list[Callable[[], None]] = []
    for ffn, constant in zip(model.ffns, constants, strict=True):
        if bool(constant.any()):
            bias: Any = ffn.down.bias
            undo.append(partial(bias.copy_, bias.clone()))
            bias.copy_((bias.double() + constant.to(bias.device)).to(bias.dtype))
    return undo


def check_streams(model: Model, streams: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Refuse a constant that does not reach the stream as it is: a norm or a factor stands between, as in Gemma.

    Raises:
        NeuroglotError: as said.
    """
    allowed = 1e-3 if model.network.dtype == torch.float32 else 0.05
    for found, wanted in zip(streams, expected, strict=True):
        if float((found - wanted).norm()) > allowed * float(wanted.norm()):
            raise NeuroglotError(
                f"What the FFN of {model.text_config.model_type} gives is normed or scaled before it is added to the "
                "stream, so a constant does not reach it as it is; keep the recipe."
            )


def streams_under(model: Model, steps: Sequence[Intervention]) -> list[Tensor]:
    """The stream after each layer under steps, on a few tokens."""
    kept: list[Tensor] = []
    with intervene(model, *steps), observe_residual(model.ffns, lambda _, states: kept.append(states.double().cpu())):
        model.hidden_states(few_tokens(model.network))
    return kept
