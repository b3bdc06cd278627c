"""Progress of long work, on the terminal's error stream."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["progress_bar", "reading", "status", "token_progress", "without_bars"]


class TokenRate(ProgressColumn):
    """Tokens a second."""

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} tokens/s")


class Count(ProgressColumn):
    """How many of how many."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The counts."""
        return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f} {self.unit}")


def status(what: str, shown: bool = True) -> AbstractContextManager[object]:
    """A sign that something is under way which has no end to measure progress by."""
    return Console(stderr=True).status(what) if shown else nullcontext()


def reading(shown: bool = True) -> AbstractContextManager[object]:
    """A sign that text is being read, which may take a while and has no known end to measure progress by."""
    return status("reading the corpus", shown)


@contextmanager
def token_progress(
    title: str, total: int | Callable[[], int], *, shown: bool = True
) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total` tokens, which a function may know better as time goes on.

    Inside the block, call `advance(tokens, what)`.
    """
    with _bar(title, total, TokenRate(), shown) as advance:
        yield advance


@contextmanager
def progress_bar(title: str, total: int, *, unit: str, shown: bool = True) -> Iterator[Callable[[int, str], None]]:
    """A bar over `total` things, named by `unit`. Inside the block, call `advance(things, what)`."""
    with _bar(title, total, Count(unit), shown) as advance:
        yield advance


@contextmanager
def _bar(
    title: str, total: int | Callable[[], int], column: ProgressColumn, shown: bool
) -> Iterator[Callable[[int, str], None]]:
    known = total if callable(total) else lambda: total
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        column,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
        speed_estimate_period=120,
    )
    with bar:
        task = bar.add_task(title, total=known())

        def advance(tokens: int, what: str) -> None:
            bar.update(task, advance=tokens, total=known(), description=f"{title} {what}")

        yield advance
        bar.update(task, description=title)


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of `transformers` while weights are read or written: what is said of it is ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
