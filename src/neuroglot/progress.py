"""Progress of long work, on the error stream: bars on a terminal, plain lines where it goes to a log.

A log has a line at the start and at the end of each work, one whenever a language is first heard of, and else one a
minute at most.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

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

__all__ = ["on_terminal", "progress_bar", "reading", "status", "token_progress", "without_bars"]

EVERY = 60.0  # seconds between lines of a log
RECENT = 120.0  # seconds over which speed is measured

Advance = Callable[[int, str], None]
Clock = Callable[[], float]


def on_terminal() -> bool:
    """Whether the error stream shows bars: a terminal that can move its cursor, or a notebook."""
    console = Console(stderr=True, markup=False, emoji=False)
    return console.is_jupyter or (sys.stderr.isatty() and not console.is_dumb_terminal)


@contextmanager
def status(what: str, shown: bool = True) -> Iterator[None]:
    """A sign that something is under way which has no end to measure progress by."""
    if shown and on_terminal():
        with Console(stderr=True, markup=False, emoji=False).status(Text(what)):
            yield
    else:
        if shown:
            _write(what)
        yield


def reading(shown: bool = True) -> AbstractContextManager[None]:
    """A sign that text is being read, which may take a while and has no known end to measure progress by."""
    return status("reading the corpus", shown)


@contextmanager
def token_progress(
    title: str, total: int | Callable[[], int], *, shown: bool = True, clock: Clock = time.monotonic
) -> Iterator[Advance]:
    """Progress over `total` tokens, which a function may know better as time goes on.

    Inside the block, call `advance(tokens, what)`: how many were done, and of what, such as a language. What follows a
    comma in `what` is detail, which does not make a line of its own in a log.

    Args:
        title: of the work.
        total: tokens.
        shown: whether anything is.
        clock: gives the seconds.
    """
    with _progress(title, total, TokenRate(), shown, clock) as advance:
        yield advance


@contextmanager
def progress_bar(
    title: str, total: int, *, unit: str, shown: bool = True, clock: Clock = time.monotonic
) -> Iterator[Advance]:
    """Progress over `total` things, named by `unit`. Inside the block, call `advance(things, what)`, as for tokens.

    Of no things nothing is shown.
    """
    with _progress(title, total, Count(unit), shown and total > 0, clock) as advance:
        yield advance


class TokenRate(ProgressColumn):
    """Tokens a second."""

    unit = "tokens"

    def render(self, task: Task) -> Text:
        """The rate, once it is known."""
        speed = task.finished_speed or _speed(task)
        return Text("" if speed is None else f"{speed:,.0f} tokens/s")


class Count(ProgressColumn):
    """How many of how many."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The counts."""
        return Text(f"{task.completed:,.0f} of {task.total or 0:,.0f} {self.unit}")


@contextmanager
def _progress(
    title: str, total: int | Callable[[], int], column: TokenRate | Count, shown: bool, clock: Clock
) -> Iterator[Advance]:
    known = total if callable(total) else lambda: total
    bars = on_terminal()
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        column,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, emoji=False),
        disable=not (shown and bars),
        get_time=clock,
        speed_estimate_period=RECENT,
    )
    with progress:
        number = progress.add_task(title, total=known())
        task = next(task for task in progress.tasks if task.id == number)
        log = _Log(title, task, column, clock) if shown and not bars else None

        def advance(count: int, what: str) -> None:
            progress.update(number, advance=count, total=known(), description=f"{title} {what}".rstrip())
            if log is not None:
                log.advanced(what)

        yield advance
        progress.update(number, description=title)
        if log is not None:
            log.ended()


class _Log:
    """The lines of one work in a log; the first is written at once."""

    def __init__(self, title: str, task: Task, column: TokenRate | Count, clock: Clock):
        self.title, self.task, self.column, self.clock = title, task, column, clock
        self.seen = {""}
        self.began = self.last = clock()
        _write(f"{title}: 0 % of {task.total or 0:,.0f} {column.unit}")

    def advanced(self, what: str) -> None:
        """Write a line if it is time for one."""
        stage, now = what.partition(",")[0], self.clock()
        if stage in self.seen and now - self.last < EVERY:
            return
        self.seen.add(stage)
        self.last = now
        said = [f"{self.task.percentage:.0f} %", self.column.render(self.task).plain, _left(self.task)]
        _write(f"{self.title} {what}".rstrip() + ": " + ", ".join(filter(None, said)))

    def ended(self) -> None:
        """Write the line of the end: what was done, and how long it took."""
        seconds = self.clock() - self.began
        took = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
        if seconds >= 5400:
            took = f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
        _write(f"{self.title}: done, {self.task.completed:,.0f} {self.column.unit} in {took}")


def _speed(task: Task) -> float | None:
    """A second: of late, or since the start as long as that says no more."""
    return task.speed or (task.completed / task.elapsed if task.completed and task.elapsed else None)


def _left(task: Task) -> str:
    """The time that is left, once it is known."""
    speed = _speed(task)
    if speed is None or not task.remaining or task.remaining < 0:
        return ""
    seconds = round(task.remaining / speed)
    if seconds < 90:
        return f"{seconds} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min left"


def _write(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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
