"""The values of a JSON array, one after the other: memory holds the longest of them, however long the file is."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuroglot.corpus.files import PIECE, text_pieces
from neuroglot.errors import NeuroglotError

__all__ = ["array_values", "is_array"]

_BLANK = re.compile(r"[ \t\n\r]*")
_CUT = 16  # characters: what ends in the middle of a word or an escape fails no further from its end


def is_array(path: Path) -> bool:
    """Whether a file is one JSON array, by its name and how it begins."""
    return path.suffix.casefold() == ".json" and next(text_pieces(path), "").lstrip().startswith("[")


def array_values(path: Path, decoder: json.JSONDecoder) -> Iterator[Any]:
    """The values of the array that a file is.

    Raises:
        NeuroglotError: it cannot be read, or is no JSON array, whose value then is named.
        Exception: what the decoder's hooks raise.
    """
    text = _Text(path)
    text.take()  # the bracket that it begins with
    number = 0
    sign = "" if text.next() != "]" else text.take()
    while sign != "]":
        number += 1
        text.next()
        try:
            value = text.value(decoder)
        except json.JSONDecodeError as error:
            raise NeuroglotError(f"{path}, object {number}: not valid JSON ({error.msg}).") from error
        yield value
        del value
        sign = text.take()
        if sign not in (",", "]"):
            raise NeuroglotError(f"{path}, object {number}: not valid JSON (a comma or the array's end should follow).")
    if text.next():
        raise NeuroglotError(f"{path}: something follows the end of its JSON array; keep one array a file.")


class _Text:
    """The text of a file as far as it was read, and how far one is in it."""

    def __init__(self, path: Path):
        self.pieces = text_pieces(path)
        self.text, self.at = "", 0

    def more(self) -> bool:
        """Read a piece and as much again as is held, so that long values are tried few times; whether there was any."""
        left = self.text[self.at :]
        new = "".join(itertools.islice(self.pieces, 1 + len(left) // PIECE))
        self.text, self.at = left + new, 0
        return bool(new)

    def next(self) -> str:
        """The next character that is not blank; nothing at the end."""
        while True:
            found = _BLANK.match(self.text, self.at)
            assert found is not None
            self.at = found.end()
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self) -> str:
        """The next character that is not blank, passed over."""
        found = self.next()
        self.at += len(found)
        return found

    def value(self, decoder: json.JSONDecoder) -> Any:
        """The value that begins here.

        Raises:
            json.JSONDecodeError: there is none.
        """
        while True:
            try:
                found, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _CUT
                if cut and self.more():
                    continue
                raise
            length = end - self.at
            if end < len(self.text) - _CUT or not self.more():  # else it may be a number that goes on
                self.at += length
                return found
