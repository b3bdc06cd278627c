"""Which units of a layer cost least to lose, if the rest of it is re-fitted: the surgeon's order.

A unit is a neuron or an attention head: some inputs of the layer's last projection W. Removing unit u and re-fitting
the others costs `tr(W[:, u] · inverse[u, u]⁻¹ · W[:, u]ᵀ)`, where `inverse` is of the second moments of the inputs
(Hassibi and Stork 1993, eq. 5; Frantar and Alistarh 2023, §3). Both are brought up to date after every removal.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuroglot.artifacts.moments import Moments, Sketch
from neuroglot.errors import NeuroglotError
from neuroglot.pruning.compensation import RIDGE

__all__ = ["Order", "Surgeon", "keep_within", "removal_order"]


class Surgeon:
    """A layer that loses units.

    Args:
        weight: the projection, one column an input.
        moments: of its inputs.
        units: which inputs are each unit's.
        ridge: as a share of the mean second moment of an input.

    Attributes:
        loss: what was lost until now: the squared error of the re-fitted output, as a share of its mean square.
    """

    def __init__(
        self,
        weight: Float[Tensor, "width inputs"],
        moments: Moments | Sketch,
        units: Int64[Tensor, "units inputs_of_one"],
        *,
        ridge: float = RIDGE,
    ):
        self.units, self.loss = units, 0.0
        self._weight = weight.detach().double().cpu().clone()
        second = moments.second.double()
        self._energy = max(moments.energy(self._weight), torch.finfo(torch.float32).tiny)
        inverse = second.clone()
        inverse.diagonal().add_(ridge * float(second.diagonal().mean()) + torch.finfo(torch.float32).tiny)
        self._inverse = torch.linalg.inv(inverse)
        self._alive = torch.ones(len(units), dtype=torch.bool)

    def costs(self) -> Float[Tensor, " units"]:
        """What each unit would add to the loss; infinite where it is gone."""
        blocks = self._inverse[self.units[:, :, None], self.units[:, None, :]]  # (units, inputs, inputs) of one
        blocks[~self._alive] = torch.eye(blocks.shape[-1], dtype=blocks.dtype)
        columns = self._weight.T[self.units]  # (units, inputs of one, width)
        found: Tensor = (torch.linalg.solve(blocks, columns) * columns).sum((1, 2)).clamp_min(0) / self._energy
        return found.masked_fill(~self._alive, torch.inf)

    def remove(self, going: Int64[Tensor, " some"]) -> None:
        """Take units out at once, and re-fit the rest."""
        inputs = self.units[going].flatten()
        block = torch.linalg.inv(self._inverse[inputs][:, inputs])
        share = self._weight[:, inputs] @ block
        self.loss += max(0.0, float((share * self._weight[:, inputs]).sum())) / self._energy
        self._weight -= share @ self._inverse[inputs]
        self._inverse -= self._inverse[:, inputs] @ block @ self._inverse[inputs]
        self._inverse[inputs], self._inverse[:, inputs], self._weight[:, inputs] = 0.0, 0.0, 0.0
        self._alive[going] = False


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

    def places(self) -> Float[Tensor, " neurons"]:
        """When each neuron goes, from 0; those that stay are last."""
        places = torch.full((self.neurons,), float(self.neurons))
        places[self.removed] = torch.arange(len(self.removed), dtype=torch.float32)
        return places


def removal_order(
    down: Float[Tensor, "width neurons"],
    moments: Moments | Sketch,
    *,
    at_once: int = 32,
    most: float = 0.9,
    ridge: float = RIDGE,
) -> Order:
    """The surgeon's order of one layer's neurons.

    Args:
        down: the down-projection, one column a neuron.
        moments: of this layer.
        at_once: how many go before the rest is judged again; 1 is the greedy optimum, and slowest.
        most: the largest share of the layer that may go; one neuron stays.
        ridge: as a share of the mean second moment of a unit.
    """
    neurons = len(moments.mean)
    surgeon = Surgeon(down, moments, torch.arange(neurons)[:, None], ridge=ridge)
    removed: list[int] = []
    losses: list[float] = []
    limit = min(int(most * neurons), neurons - 1)
    while len(removed) < limit:
        going = surgeon.costs().topk(min(at_once, limit - len(removed)), largest=False).indices
        before = surgeon.loss
        surgeon.remove(going)
        paid = surgeon.loss - before
        removed += going.tolist()
        losses += [before + paid * (i + 1) / len(going) for i in range(len(going))]
    return Order(neurons, torch.tensor(removed, dtype=torch.int64), torch.tensor(losses))


def keep_within(orders: Sequence[Order], count: int) -> Bool[Tensor, "layers neurons"]:
    """Keep so many neurons of all layers: at each step the layer that the next removal costs least loses one.

    Raises:
        NeuroglotError: there are not so many, or the orders leave more.
    """
    total = sum(order.neurons for order in orders)
    going = total - count
    least = total - sum(len(order.removed) for order in orders)
    if not least <= count <= total:
        raise NeuroglotError(f"Of these layers {least:,} to {total:,} neurons can be kept, not {count:,}.")
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
