"""The `datasets` library without its progress bars."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of `datasets` while a small file is read."""
    import datasets
    from datasets.utils.logging import is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
