"""The `datasets` library without its progress bars."""

import datasets
from datasets.utils.logging import is_progress_bar_enabled

__all__ = ["quiet"]


class quiet:
    """No progress bars of `datasets` while a small file is read."""

    def __enter__(self) -> None:
        self.shown = is_progress_bar_enabled()
        datasets.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        if self.shown:
            datasets.enable_progress_bars()
