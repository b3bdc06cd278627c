"""The formats of tables: the rows of a file, each cell as the format has it, and where a row stands."""

import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroglot.corpus.files import COMPRESSED, text_lines
from neuroglot.corpus.json_arrays import array_values, is_array
from neuroglot.errors import NeuroglotError

__all__ = ["FORMATS", "Rows", "json_rows", "name_and_format"]

FORMATS = {
    ".txt": "text", ".jsonl": "json", ".ndjson": "json", ".jsonlines": "json", ".json": "json", ".csv": "csv",
    ".tsv": "tsv", ".parquet": "parquet",
}  # fmt: skip

_SEPARATORS = ",;\t"
AT_ONCE = 1 << 24  # bytes of a Parquet file's rows


def name_and_format(path: Path) -> tuple[str, str | None]:
    """What a file is called without its endings, and its format; None if it is none that is read.

    Endings are the same in capitals. Text may be packed (`fr.txt.gz`); Parquet packs itself.
    """
    inner = Path(path.stem) if path.suffix.casefold() in COMPRESSED else path
    form = FORMATS.get(inner.suffix.casefold())
    return (path.name, None) if form is None or (form == "parquet" and inner != path) else (inner.stem, form)


@dataclass(frozen=True)
class Rows:
    """The rows of one file.

    Attributes:
        path: the file.
        form: its format, a value of `FORMATS`.
    """

    path: Path
    form: str

    def place(self, number: int) -> str:
        """Where a row is, for a sentence."""
        return f"{self.path}, {'row' if self.form == 'parquet' else 'line'} {number}"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns as the file has them; of JSON, of all its objects.

        Raises:
            NeuroglotError: the file is empty or malformed, or two columns have one name.
        """
        if self.form == "text":
            return ("text",)
        if self.form == "parquet":
            names = self._parquet().schema_arrow.names
        elif self.form == "json":
            return tuple(dict.fromkeys(name for _, row in json_rows(self.path) for name in row))
        else:
            names = self._header[1]
        twice = next((name for i, name in enumerate(names) if name.strip() and name in names[:i]), None)
        if twice is not None:
            raise NeuroglotError(f"{self.path} has two columns named {twice!r}; rename one.")
        return tuple(names)

    @cached_property
    def first_columns(self) -> tuple[str, ...]:
        """The columns that the first thousand rows have: all, but for JSON, which is then not read to its end."""
        if self.form != "json":
            return self.columns
        return tuple(dict.fromkeys(name for _, row in itertools.islice(json_rows(self.path), 1000) for name in row))

    def __call__(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        """The rows: the number of the line (of the row, in Parquet), and the cells of these columns, in their order.

        Raises:
            NeuroglotError: the file is malformed; the sentence names the line.
        """
        if self.form == "text":
            return (_text_row(*each) for each in text_lines(self.path))
        if self.form == "json":
            return ((number, [row.get(name) for name in columns]) for number, row in json_rows(self.path))
        if self.form == "parquet":
            return self._parquet_rows(columns)
        return self._delimited_rows(columns)

    # --- Parquet -----------------------------------------------------------------------------------------------------

    def _parquet(self) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise NeuroglotError(f"{self.path} is not a readable parquet file ({error}).") from error

    def _parquet_rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        import pyarrow

        number = 0
        try:
            file = self._parquet()
            for batch in file.iter_batches(batch_size=_rows_at_once(file.metadata), columns=list(columns)):
                for cells in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    number += 1
                    yield number, list(cells)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise NeuroglotError(f"{self.path} is not a readable parquet file ({error}).") from error

    # --- comma- and tab-separated ------------------------------------------------------------------------------------

    @cached_property
    def _header(self) -> tuple[str, list[str]]:
        """The separator, and the names of the columns."""
        failed: NeuroglotError | None = None
        headers: dict[str, list[str]] = {}
        for separator in "\t" if self.form == "tsv" else _SEPARATORS:
            try:
                for _, header in itertools.islice(self._split(separator), 1):
                    headers[separator] = header
                    if len(header) > 1:
                        return separator, header
            except NeuroglotError as error:  # it may be quoted cells with another separator between them
                failed = failed or error
        if failed is not None:
            raise failed
        if not headers:
            raise NeuroglotError(f"{self.path} is empty; put text in it or leave it out.")
        return next(iter(headers.items()))

    def _split(self, separator: str) -> Iterator[tuple[int, list[str]]]:
        """Every line's cells, blank lines left out only where a row has more cells than one."""
        if self.form == "tsv":  # which has no quoting
            for number, line in text_lines(self.path):
                yield number, _without_end(line).split("\t")
            return
        csv.field_size_limit(sys.maxsize)  # a document may be as long as it likes
        reader = csv.reader((line for _, line in text_lines(self.path)), delimiter=separator, strict=True)
        start = 1
        try:
            for cells in reader:
                yield start, cells or [""]
                start = reader.line_num + 1
        except csv.Error as error:
            raise NeuroglotError(
                f"{self.path}, line {start}: the row that begins here is not CSV ({error}); a quotation mark in a "
                "quoted cell is written twice, and a .tsv file has no quoting."
            ) from error

    def _delimited_rows(self, columns: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
        separator, header = self._header
        places = [header.index(name) for name in columns]
        lines = self._split(separator)
        next(lines, None)
        for number, cells in lines:
            if len(cells) != len(header):
                if cells == [""]:
                    continue
                raise NeuroglotError(
                    f"{self.place(number)}: {len(cells)} cells where the header has {len(header)}; "
                    + ("a cell holds no tab." if self.form == "tsv" else f"quote cells that hold {separator!r}.")
                )
            yield number, [cells[place] for place in places]


def _rows_at_once(about: Any) -> int:
    """So many rows of a Parquet file that memory holds them, however long its texts are."""
    groups = [about.row_group(index) for index in range(about.num_row_groups)]
    longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return int(min(4096, max(1, AT_ONCE // max(1, longest))))


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, or of one JSON array, with the number of the line (in an array, of the object).

    Raises:
        NeuroglotError: a line is no object, or names something twice.
    """
    if is_array(path):
        with _as_json(str(path)):
            for number, row in enumerate(array_values(path, json.JSONDecoder(object_pairs_hook=_once)), start=1):
                yield number, _object(row, f"{path}, object {number}")
        return
    for number, line in text_lines(path):
        if line.strip():
            place = f"{path}, line {number}"
            with _as_json(place):
                row = json.loads(line, object_pairs_hook=_once)
            del line
            yield number, _object(row, place)
            del row


@contextmanager
def _as_json(place: str) -> Iterator[None]:
    try:
        yield
    except NeuroglotError:  # is a ValueError
        raise
    except json.JSONDecodeError as error:
        raise NeuroglotError(f"{place}: not valid JSON ({error.msg} at column {error.colno}).") from error
    except (KeyError, ValueError, RecursionError) as error:
        reason = f"{error.args[0]!r} is named twice" if isinstance(error, KeyError) else str(error)
        raise NeuroglotError(f"{place}: {reason} in one JSON object.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for i, name in enumerate(names) if name in names[:i]))
    return found


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise NeuroglotError(f"{place}: not a JSON object; write one {{…}} a line.")
    return row


def _text_row(number: int, line: str) -> tuple[int, list[Any]]:
    return number, [_without_end(line)]


def _without_end(line: str) -> str:
    r"""A line without its `\n` or `\r\n`."""
    return line.removesuffix("\n").removesuffix("\r")
