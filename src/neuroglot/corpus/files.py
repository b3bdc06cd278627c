"""Files as lines of text: compressed or not, in UTF-8 or, with a byte-order mark, in UTF-16 or UTF-32."""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroglot.errors import NeuroglotError

__all__ = ["COMPRESSED", "opened", "text_lines", "text_pieces"]

PIECE = 1 << 20
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_WIDE = {  # the longer mark first, since it begins with the shorter
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file's bytes, unpacked.

    Raises:
        NeuroglotError: it cannot be read, or is not packed as its name says; also while it is read inside the block.
    """
    try:
        with _unpacked(path) as raw:
            yield io.BufferedReader(raw, 1 << 20)
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise NeuroglotError(
            f"{path} is damaged or not packed as {path.suffix} says ({error}); get it again."
        ) from error
    except OSError as error:
        if error.errno is None and path.suffix.casefold() in COMPRESSED:
            raise NeuroglotError(f"{path} is damaged or not packed as {path.suffix} says; get it again.") from error
        raise NeuroglotError(f"{path} cannot be read: {error.strerror or error}.") from error


def _unpacked(path: Path) -> Any:
    kind = path.suffix.casefold()
    if kind == ".zst":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers[kind](path, "rb") if kind in openers else path.open("rb", buffering=0)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""The lines of a text file, numbered from 1, each with its end.

    Only `\n` ends a line: a lone `\r`, U+2028 or a form feed is part of one. A byte-order mark is no text.

    Raises:
        NeuroglotError: it cannot be read or decoded; the sentence names the line.
    """
    with opened(path) as file:
        wide = _wide(path, file)
        if wide is not None:
            yield from _wide_lines(path, file, wide)
            return
        for number in itertools.count(1):
            line = _decoded(path, number, file.readline())
            if not line:
                return
            held = [line]  # given away: a line may be as long as memory is large, and none is kept here
            del line
            yield number, held.pop()


def text_pieces(path: Path) -> Iterator[str]:
    """The text of a file in pieces of about a million characters, wherever these end.

    Raises:
        NeuroglotError: it cannot be read or decoded.
    """
    with opened(path) as file:
        encoding = _wide(path, file) or "utf-8"
        text = io.TextIOWrapper(file, encoding, newline="\n")
        try:
            while piece := text.read(PIECE):
                yield piece
        except UnicodeError as bad:
            raise NeuroglotError(f"{path} holds bytes that are not {encoding.upper()}; save it as UTF-8.") from bad
        finally:
            text.detach()  # the file is closed by who opened it


def _wide(path: Path, file: io.BufferedReader) -> str | None:
    """UTF-16 or UTF-32, if a file's mark says so; of UTF-8 the mark is skipped.

    Raises:
        NeuroglotError: it has no mark and looks like UTF-16.
    """
    head = file.peek(4096)[:4096]
    wide = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    if wide is None and head.count(0) * 4 > len(head):
        raise NeuroglotError(
            f"{path} looks like UTF-16 without a byte-order mark (every second byte is 0); save it as UTF-8."
        )
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    return wide


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise NeuroglotError(
            f"{path}, line {number}: byte {bad.start + 1} is not UTF-8; save the file as UTF-8."
        ) from bad


def _wide_lines(path: Path, file: io.BufferedReader, encoding: str) -> Iterator[tuple[int, str]]:
    number = 0
    text = io.TextIOWrapper(file, encoding, newline="\n")
    try:
        for number, line in enumerate(text, start=1):
            yield number, line
    except UnicodeError as bad:
        raise NeuroglotError(
            f"{path}, after line {number}: not {encoding.upper()}, which its byte-order mark says; save it as UTF-8."
        ) from bad
    finally:
        text.detach()  # the file is closed by who opened it
