"""Turns: one model, one answer at a time, and a line of those who wait for it."""

from collections.abc import Generator
from threading import Condition

from neuroglot.errors import NeuroglotError

__all__ = ["Turns"]


class Turns:
    """A line in which everybody is served in the order in which they came.

    Args:
        longest: how many may wait; who comes later is sent away.
    """

    def __init__(self, longest: int):
        self.longest = longest
        self._line: list[object] = []
        self._changed = Condition()

    def __len__(self) -> int:
        """How many are in the line, whoever is served among them."""
        with self._changed:
            return len(self._line)

    def wait(self, patience: float = 1.0) -> Generator[int, None, None]:
        """Stand in the line, and be served as long as the iterator lives: close it to leave, at any time.

        Args:
            patience: seconds between two looks at the line.

        Yields:
            How many are before this one: each time when that has changed or `patience` is over, and at last 0.

        Raises:
            NeuroglotError: the line is full.
        """
        ticket = object()
        with self._changed:
            if len(self._line) > self.longest:
                raise NeuroglotError(
                    f"{len(self._line)} answers are being written or waited for, and no more may wait; try again later."
                )
            self._line.append(ticket)
        try:
            while True:
                with self._changed:
                    before = self._line.index(ticket)
                yield before
                with self._changed:
                    if before and self._line.index(ticket) == before:
                        self._changed.wait(patience)
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()
