"""What a unit holds of a model, so that neurons and heads can be given the same budget."""

from dataclasses import dataclass

from torch import nn

from neuroglot.identify.units import Units
from neuroglot.models.model import Model

__all__ = ["UnitCosts", "unit_costs"]


@dataclass(frozen=True)
class UnitCosts:
    """What a model and one of its units hold.

    FLOPs are of the forward pass of one token without the head, in a text of so many tokens: two for every weight of a
    matrix, and for every head 2 · 2 · D · T / 2 for scores and mixtures over the T / 2 tokens before it.

    Attributes:
        neurons: how many there are in all.
        heads: likewise; 0 where they were not asked for.
        neuron: parameters of one: its rows of the up-projection and the gate, and its column of the down-projection.
        head: parameters of one: the parameters of its attention over the heads, keys and values that heads share among
            them.
        model: parameters of all but the embeddings and the head.
        head_flops: FLOPs of one head a token.
        model_flops: FLOPs of all a token.
    """

    neurons: int
    heads: int
    neuron: float
    head: float
    model: int
    head_flops: float
    model_flops: float

    def share(self, units: Units, share: float) -> float:
        """The share of these units that holds as many parameters as a share of all neurons; of one unit at least."""
        if units == "neurons":
            return share
        wanted = share * self.neurons * self.neuron / self.head
        return min(1.0, max(1, round(wanted)) / self.heads)

    def held(self, units: Units, count: float) -> dict[str, float]:
        """The shares of the model's parameters and FLOPs that so many units hold."""
        each, flops = (self.neuron, 2 * self.neuron) if units == "neurons" else (self.head, self.head_flops)
        return {"parameters": count * each / self.model, "flops": count * flops / self.model_flops}


def unit_costs(model: Model, block: int, *, heads: bool) -> UnitCosts:
    """What a model's units hold; heads are only looked for if asked."""
    network: nn.Module = model.network
    outside = {id(part.weight) for part in (model.network.get_input_embeddings(), model.network.get_output_embeddings())
               if part is not None}  # fmt: skip
    total = sum(weight.numel() for weight in network.parameters() if id(weight) not in outside)
    neurons = sum(model.widths)
    of_neurons = sum(ffn.down_columns.shape[0] * ffn.neurons * (3 if ffn.gated else 2) for ffn in model.ffns)
    count, of_heads, mixing = 0, 0, 0.0
    if heads:
        names = {module: name for name, module in network.named_modules()}
        for attention in model.attentions:
            whole = network.get_submodule(names[attention.projection].rpartition(".")[0])
            count += attention.heads
            of_heads += sum(weight.numel() for weight in whole.parameters())
            mixing += 2 * attention.width * block * attention.heads
    return UnitCosts(
        neurons, count, of_neurons / neurons, of_heads / max(count, 1), total,
        (2 * of_heads + mixing) / max(count, 1), 2 * total + mixing,
    )  # fmt: skip
