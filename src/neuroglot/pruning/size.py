"""What a model costs, and the largest cut that costs no more than is allowed."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import is_matrix
from neuroglot.models.architecture.find import find_ffns

__all__ = ["Size", "largest_budget", "size"]


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
