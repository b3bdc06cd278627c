"""What a file of losses must hold before anything is computed from it: numbers of the same blocks everywhere."""

import math
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["check_losses", "check_perplexities", "check_sizes"]

ROUNDING = 1e-3
"""The negative log-likelihood of a certain token may be as far below 0."""


def check_losses(about: str, cells: Mapping[str, Sequence[float]], intact: Mapping[str, Sequence[float]]) -> None:
    """Language → nats a token of each block, as many as the intact model has.

    Raises:
        ValueError: another number of blocks, none, or a loss that is no number.
    """
    for tag, values in cells.items():
        numbers = all(math.isfinite(value) and value > -ROUNDING for value in values)
        if not values or len(values) != len(intact.get(tag, ())) or not numbers:
            raise ValueError(f"{about}: the losses in {tag} are not one number for each block")


def check_perplexities(about: str, row: Mapping[str, float], languages: Iterable[str]) -> None:
    """Language → perplexity. It may be infinite, where losses are large.

    Raises:
        ValueError: a language that was not measured, or something that no perplexity can be.
    """
    if not {*row} <= {*languages} or any(value is True or not value > 0 for value in row.values()):
        raise ValueError(f"{about}: {dict(row)} are no perplexities in {', '.join(languages)}")


def check_sizes(about: str, sizes: Mapping[str, int], wanted: Iterable[str]) -> None:
    """Whose units → how many.

    Raises:
        ValueError: one is missing, or below 0.
    """
    if not {*wanted} <= {*sizes} or any(size < 0 for size in sizes.values()):
        raise ValueError(f"{about}: {dict(sizes)} does not say how many units each had")
