"""What somebody gives a function, a path to be read or a number: what is wrong is said, and what belongs there."""

import operator
import os
from pathlib import Path
from typing import Any

from neuroglot.errors import NeuroglotError

__all__ = ["check_file", "whole"]


def whole(given: Any, name: str, least: int | None = None) -> int:
    """A whole number, such as 4, 4.0 or one of numpy's; a script computes many a setting, and gets a float.

    Args:
        given: the number.
        name: of the setting, the beginning of the sentence.
        least: which it may not fall below.

    Raises:
        NeuroglotError: it is none, or too small.
    """
    number: int | None = None
    if type(given).__name__ not in ("bool", "bool_"):  # numpy's, too, whose name depends on its version
        try:
            number = operator.index(given)
        except TypeError:
            if not isinstance(given, str | bytes) and hasattr(given, "__float__"):
                try:
                    number = int(float(given)) if float(given).is_integer() else None
                except (TypeError, ValueError):  # an array, a tensor
                    number = None
    if number is None or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise NeuroglotError(f"{name} must be {wanted}, not {given!r:.40}.")
    return number


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
