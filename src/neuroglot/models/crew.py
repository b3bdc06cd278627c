"""What a model knows of its workers, which `models/workers.py` makes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

__all__ = ["Crew"]


class Crew(Protocol):
    """Other processes with the same model; see `models/workers.py`."""

    count: int

    def run(self, function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What `function(model, *job)` gives for each job, in their order."""

    def dismiss(self) -> None:
        """End them."""
