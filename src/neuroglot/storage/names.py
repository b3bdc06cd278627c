"""Names from outside, which become names of files: of methods, prompts, conditions, languages and shards."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from neuroglot.errors import NeuroglotError

__all__ = ["Name", "check_inside", "check_name", "is_name", "whole_number"]

LONGEST = 150  # bytes: file systems take 255, and drafts and endings come on top
DIGITS = 18  # of a number: more than any layer, shard or step needs, and few enough for 64 bits
_NAME = re.compile(r"\w(?:[\w .,+@()=%-]*[\w)%+=])?")


def is_name(text: Any) -> bool:
    """Whether a text can be part of a file's name and stay what it is: no path, no mark-up, no code, not too long."""
    return isinstance(text, str) and bool(_NAME.fullmatch(text)) and len(text.encode()) <= LONGEST


def check_name(text: str) -> str:
    """A name that may become part of a file's name.

    Raises:
        NeuroglotError: it cannot: it holds separators of paths or signs of mark-up, or is too long.
    """
    if not is_name(text):
        raise NeuroglotError(
            f"{text[:80]!r} cannot be a name here: use letters, digits, spaces and . , + - _ ( ), at most {LONGEST} "
            "bytes."
        )
    return text


def whole_number(text: str) -> int | None:
    """The number that the digits 0 to 9 write; None where a text is anything else, such as `²`, `٣`, `-1` or ``.

    What other scripts call digits is no number in a name, an option or a file here: `str.isdigit` takes signs that
    `int` does not, and `int` takes more digits than a name may have.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else None


Name = Annotated[str, AfterValidator(check_name)]
"""A field of settings that holds such a name."""


def check_inside(folder: Path) -> None:
    """Refuse a directory in which a link to another directory leads out of it: what is written there would leave it.

    Raises:
        NeuroglotError: as said, or a link loops.
    """
    top = os.path.realpath(folder)
    for parent, directories, _ in os.walk(folder):
        for name in directories:
            path = os.path.join(parent, name)
            if os.path.islink(path) and os.path.commonpath([top, os.path.realpath(path)]) != top:
                raise NeuroglotError(
                    f"{path} is a link that leads out of {folder}, and what is written there would be written "
                    "elsewhere; put the directory itself there."
                )
