"""Changes of a router written into its weights, where it has a bias that can say them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from neuroglot.edit.interventions import intervene
from neuroglot.edit.routing import DeactivateExperts, Rerouting
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import few_tokens
from neuroglot.models.architecture.hooks import observe_routing
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.model import Model

__all__ = ["change_routers"]

OUT = -1e4  # far below any logit or score, and a number in every type


def change_routers(model: Model, steps: Sequence[Rerouting]) -> list[Callable[[], None]]:
    """Put changes of routers into their biases, and give functions that undo it.

    That the biased routers choose as the changed ones do is tried on a few tokens.

    Raises:
        NeuroglotError: a router has no bias, or does not choose so, or a change depends on the position.
    """
    if not steps:
        return []
    tokens = few_tokens(model.network)
    with intervene(model, *steps):
        expected, states = _run(model, tokens)
    undo: list[Callable[[], None]] = []
    try:
        for step in steps:
            undo += _step(model, step)
        chosen, got = _run(model, tokens)
        same = all(torch.equal(expected[layer], chosen[layer]) for layer in expected)
        allowed = 1e-3 if model.network.dtype == torch.float32 else 0.05
        if not same or float((got - states).norm()) > allowed * float(states.norm()):
            raise NeuroglotError(
                f"A bias of the routers of {model.text_config.model_type} does not do what this change of their logits "
                "does, so no weight can hold it; keep the recipe."
            )
    except NeuroglotError:
        for step_back in reversed(undo):
            step_back()
        raise
    return undo


def _step(model: Model, step: Rerouting) -> list[Callable[[], None]]:
    """Put one change into the biases of all layers that it is about."""
    if step.when != "both":
        raise NeuroglotError(
            f"Experts favoured on {step.when} tokens only depend on the position, which no weight knows; keep the "
            "recipe."
        )
    undo: list[Callable[[], None]] = []
    for layer, mixture in model.mixtures.items():
        experts = step.experts[layer, : mixture.experts]
        if not bool(experts.any()):
            continue
        bias = _bias(mixture)
        if bias is None:
            raise NeuroglotError(
                f"The routers of {model.text_config.model_type} have no bias, so no weight can take an expert out of "
                "the choice or favour it; keep the recipe, or write a smaller model without the experts."
            )
        out = isinstance(step, DeactivateExperts)
        undo.append(_written(bias, torch.where(experts.to(bias.device), OUT if out else bias + step.added, bias)))
    return undo


def _written(bias: Tensor, values: Tensor) -> Callable[[], None]:
    old = bias.clone()
    bias.copy_(values)

    def put_back() -> None:
        bias.copy_(old)

    return put_back


def _bias(mixture: Mixture) -> Tensor | None:
    """What the router adds to its logits, or to its scores before it chooses."""
    owner: Any = mixture.routing.owner
    named = [(owner, "bias"), (owner, "e_score_correction_bias"), (mixture.routing.block, "e_score_correction_bias")]
    found = (getattr(place, name, None) for place, name in named)
    return next((each for each in found if isinstance(each, Tensor) and each.shape == (mixture.experts,)), None)


def _run(model: Model, tokens: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """What each router chooses on some tokens, and the last hidden states."""
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), observe_routing(model.ffns, lambda layer, chosen: seen.update({layer: chosen.clone()})):
        states = model.hidden_states(tokens).double()
    return seen, states
