"""Which neurons cost least to lose, if the rest of their layer is re-fitted: the surgeon's order, and one budget.

Removing neuron j and re-fitting the others costs `‖down[:, j]‖² / inverse[j, j]`, where `inverse` is of the second
moments (Hassibi and Stork 1993, eq. 5; Frantar and Alistarh 2023, §3). Both are brought up to date after every removal,
here of a few neurons at once.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuroglot.artifacts.moments import Moments
from neuroglot.errors import NeuroglotError
from neuroglot.pruning.compensation import RIDGE

__all__ = ["Order", "keep_within", "removal_order"]


@dataclass(frozen=True)
class Order:
    """In which order a layer loses neurons, and what that costs.

    Attributes:
        neurons: how many the layer has.
        removed: those that can go, the cheapest first.
        losses: after each: the squared error of the re-fitted output, as a share of the output's own mean square.
    """

    neurons: int
    removed: Int64[Tensor, " removable"]
    losses: Float[Tensor, " removable"]


def removal_order(
    down: Float[Tensor, "width neurons"],
    moments: Moments,
    *,
    at_once: int = 32,
    most: float = 0.9,
    ridge: float = RIDGE,
) -> Order:
    """The surgeon's order of one layer.

    Args:
        down: the down-projection, one column a neuron.
        moments: of this layer.
        at_once: how many go before the rest is judged again; 1 is the greedy optimum, and slowest.
        most: the largest share of the layer that may go; one neuron stays.
        ridge: as a share of the mean second moment of a unit.
    """
    weight = down.detach().float().cpu().clone()
    second = moments.second.float()
    energy = max(float(((weight @ second) * weight).sum()), torch.finfo(torch.float32).tiny)
    neurons = len(second)
    inverse = second.clone()
    inverse.diagonal().add_(ridge * float(second.diagonal().mean()) + torch.finfo(torch.float32).tiny)
    inverse = torch.linalg.inv(inverse)
    alive = torch.ones(neurons, dtype=torch.bool)
    removed: list[int] = []
    losses: list[float] = []
    total = 0.0
    limit = min(int(most * neurons), neurons - 1)
    while len(removed) < limit:
        cost = weight.square().sum(0) / inverse.diagonal().clamp_min(1e-30)
        cost[~alive] = torch.inf
        going = cost.topk(min(at_once, limit - len(removed)), largest=False).indices
        block = torch.linalg.inv(inverse[going][:, going])
        share = weight[:, going] @ block
        paid = max(0.0, float((share * weight[:, going]).sum())) / energy
        weight -= share @ inverse[going]
        inverse -= inverse[:, going] @ block @ inverse[going]
        inverse[going], inverse[:, going], weight[:, going] = 0.0, 0.0, 0.0
        alive[going] = False
        removed += going.tolist()
        losses += [total + paid * (i + 1) / len(going) for i in range(len(going))]
        total += paid
    return Order(neurons, torch.tensor(removed, dtype=torch.int64), torch.tensor(losses))


def keep_within(orders: Sequence[Order], share: float) -> Bool[Tensor, "layers neurons"]:
    """Keep this share of all neurons: at each step the layer that the next removal costs least loses a neuron.

    Raises:
        NeuroglotError: the share is not above 0 and at most 1, or less than what the orders leave.
    """
    total = sum(order.neurons for order in orders)
    going = total - round(share * total)
    removable = sum(len(order.removed) for order in orders)
    if not 0 < share <= 1 or going > removable:
        least = 1 - removable / total
        raise NeuroglotError(f"A share of the neurons to keep is from {least:.3g} to 1, not {share:g}.")
    keep = torch.zeros(len(orders), max(order.neurons for order in orders), dtype=torch.bool)
    for layer, order in enumerate(orders):
        keep[layer, : order.neurons] = True
    steps = [torch.diff(order.losses, prepend=torch.zeros(1)).tolist() for order in orders]
    queue = [(costs[0], layer, 0) for layer, costs in enumerate(steps) if costs]
    heapq.heapify(queue)
    for _ in range(going):
        _, layer, place = heapq.heappop(queue)
        keep[layer, orders[layer].removed[place]] = False
        if place + 1 < len(steps[layer]):
            heapq.heappush(queue, (steps[layer][place + 1], layer, place + 1))
    return keep
