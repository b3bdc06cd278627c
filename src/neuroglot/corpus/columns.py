"""Columns of text, memory-mapped: what a file holds, converted once and kept by what it depends on."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.corpus.formats import Rows
from neuroglot.corpus.texts import refuse_halves
from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.caches import cache_directory
from neuroglot.storage.sums import is_whole, keep_sums

__all__ = ["Columns", "column_named", "text_of"]

VERSION = 1  # of what is kept: another way of reading has another
BATCH = 4096
CHARACTERS = 1 << 22  # of a batch, too: a few long documents are one, and memory holds a batch
LINE = "\0line"

Row = tuple[int, Sequence[str | None]]


class Columns:
    """Columns of text of one file; None where a row has none. It can be pickled, and is read from disk each time.

    Args:
        rows: the file.
        layout: how they are found in the file, which with the file's bytes decides what they hold.
        names: the columns' names.
        convert: gives each row's number in the file, and its cells.

    Raises:
        NeuroglotError: the file holds no row, or what `convert` raises.
    """

    def __init__(self, rows: Rows, layout: str, names: Sequence[str], convert: Callable[[], Iterable[Row]]):
        self.rows = rows
        path = rows.path
        digest = hashlib.sha256(repr((VERSION, rows.form, path.suffix, layout, list(names))).encode())
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise NeuroglotError(f"{path} cannot be read: {error.strerror or error}.") from error
        self._file = cache_directory() / "text" / f"{digest.hexdigest()[:32]}.arrow"
        if not is_whole(self._file):  # a damaged one is made again
            with atomic_path(self._file) as draft:
                _write(draft, names, convert())
                keep_sums(draft, self._file)
        if len(self) == 0:
            raise NeuroglotError(f"{path} is empty; put text in it or leave it out.")

    def _table(self) -> Any:
        import pyarrow

        return pyarrow.ipc.open_file(pyarrow.memory_map(str(self._file))).read_all()

    def __len__(self) -> int:
        return int(self._table().num_rows)

    def place(self, row: int) -> str:
        """Where row `row` (from 0) stands in the file, for a sentence."""
        return self.rows.place(self._table()[LINE][row].as_py())

    def reader(self, name: str) -> Callable[[], Iterator[str | None]]:
        """Gives a fresh iterator over a column."""
        return lambda: self(name)

    def __call__(self, name: str) -> Iterator[str | None]:
        """A column's cells, in order."""
        for batch in self._table().to_batches():
            yield from batch.column(name).to_pylist()

    def distinct(self, name: str) -> list[str | None]:
        """A column's different cells, in the order in which they come."""
        found: list[str | None] = self._table()[name].unique().to_pylist()
        return found

    def where(self, name: str, column: str, values: Sequence[str]) -> Iterator[str | None]:
        """The cells of `name` in the rows whose cell of `column` is one of the values."""
        import pyarrow
        import pyarrow.compute

        wanted = pyarrow.array(list(values), pyarrow.large_string())
        for batch in self._table().to_batches():
            chosen = pyarrow.compute.is_in(batch.column(column), value_set=wanted)
            yield from batch.column(name).filter(chosen).to_pylist()

    def at(self, name: str, rows: Iterable[int | None]) -> Iterator[str | None]:
        """The cells of a column in these rows, in their order; None for None."""
        column = self._table()[name]
        return (None if row is None else column[row].as_py() for row in rows)


def _write(path: Path, names: Sequence[str], rows: Iterable[Row]) -> None:
    import pyarrow

    schema = pyarrow.schema([(LINE, pyarrow.int64()), *((name, pyarrow.large_string()) for name in names)])
    numbers: list[int] = []
    cells: list[list[str | bytes | None]] = [[] for _ in names]

    with pyarrow.ipc.new_file(str(path), schema) as file:

        def flush() -> None:
            arrays = [pyarrow.array(values, kind) for values, kind in zip([numbers, *cells], schema.types, strict=True)]
            file.write_batch(pyarrow.record_batch(arrays, schema=schema))
            numbers.clear()
            for values in cells:
                values.clear()

        held = 0
        for number, row in rows:
            numbers.append(number)
            for values, cell in zip(cells, row, strict=True):
                held += len(cell or "")
                # pyarrow would keep the UTF-8 of a text as a part of it
                values.append(cell.encode() if cell and len(cell) > CHARACTERS else cell)
            del row, cell
            if len(numbers) == BATCH or held > CHARACTERS:
                flush()
                held = 0
        if numbers:
            flush()
    pyarrow.default_memory_pool().release_unused()  # which a long text has filled


def column_named(names: Sequence[str], wanted: str) -> str | None:
    """The column of this name, or else the first that differs from it in capitals and outer blanks only."""
    if wanted in names:
        return wanted
    alike = [name for name in names if name.strip().casefold() == wanted.strip().casefold()]
    return alike[0] if alike else None


_KINDS = {
    bool: "a truth value", int: "a number", float: "a number", dict: "an object", list: "a list", tuple: "a list",
    bytes: "bytes",
}  # fmt: skip


def text_of(cell: Any, name: str, place: str) -> str | None:
    """A cell that must be text or empty.

    Raises:
        NeuroglotError: it is neither, or cannot be written in UTF-8.
    """
    if cell is None:
        return None
    if not isinstance(cell, str):
        if isinstance(cell, float) and cell != cell:  # what pandas writes where a cell is empty
            return None
        kind = _KINDS.get(type(cell), f"a {type(cell).__name__}")
        raise NeuroglotError(
            f"{place}: {name} is {kind} ({str(cell)[:40]}), where text should be; write it as text or name another "
            "column."
        )
    refuse_halves(cell, f"{place}: {name}")
    return cell
