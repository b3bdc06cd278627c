"""Changes to a network or its config that can be taken back."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Undo", "configure", "taking_back"]

Undo = Callable[[], None]


def configure(thing: Any, name: str, value: Any) -> Undo:
    """Set a value of a config or a module, and give a function that undoes it."""
    missing = object()
    old = getattr(thing, name, missing)
    setattr(thing, name, value)
    return lambda: delattr(thing, name) if old is missing else setattr(thing, name, old)


def taking_back(undo: Sequence[Undo]) -> Undo:
    """A function that takes all of these back, the last change first."""

    def put_back() -> None:
        for step in reversed(undo):
            step()

    return put_back
