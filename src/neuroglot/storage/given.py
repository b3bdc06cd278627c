"""Paths that somebody gives to be read: what is wrong with one is said, and what belongs there."""

import os
from pathlib import Path

from neuroglot.errors import NeuroglotError

__all__ = ["check_file"]


def check_file(path: str | Path, remedy: str) -> None:
    """Refuse a path at which no file is.

    Args:
        path: of a file that is to be read.
        remedy: what to give, the end of the sentence.

    Raises:
        NeuroglotError: it is a directory, a link to nothing, no ordinary file, or is not there.
    """
    if os.path.isfile(path):  # Path.is_file raises where a name is too long
        return
    if os.path.isdir(path):
        wrong = "is a directory"
    elif os.path.exists(path):
        wrong = "is no ordinary file"
    else:
        wrong = "is a link to nothing" if os.path.islink(path) else "does not exist"
    raise NeuroglotError(f"{path} {wrong}; {remedy}.")
