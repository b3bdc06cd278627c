"""Tables that are read back: CSV as others read it, with its digest in a hidden file beside it.

The digest is written before the table, beside that of the table which is there: so at every instant the table is one of
those whose digests are known, and a process that is killed between the two leaves nothing that looks damaged.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.storage.atomic import save_text
from neuroglot.storage.locks import locked
from neuroglot.storage.sealed import digest_of_bytes, note_unsealed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["csv_text", "load_table", "save_table"]


def csv_text(table: "pd.DataFrame") -> str:
    """A table as CSV, which reads back as it was written.

    A text with a carriage return is left bare by the csv module, and every reader would end the row there. So where
    there is one, all text is quoted.
    """
    text = str(table.to_csv(index=False, lineterminator="\n"))
    if "\r" in text:
        text = str(table.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC))
    return text


def save_table(path: str | Path, table: "pd.DataFrame | str") -> Path:
    """Write a table (or the text of one) as CSV, whole or not at all. One that is there already is left as it is.

    Raises:
        NeuroglotError: it cannot be written.
    """
    path = Path(path)
    text = table if isinstance(table, str) else csv_text(table)
    known = [digest_of_bytes(text.encode())]
    with locked(path.parent):  # of two processes, one must not write its table beside the other's digest
        if path.is_file():
            known += [found for found in [digest_of_bytes(path.read_bytes())] if found in _digests(path)]
            if known[1:] == known[:1]:
                return path
        save_text(_beside(path), "\n".join(dict.fromkeys(known)) + "\n")
        return save_text(path, text)


def load_table(path: str | Path, remedy: str = "make it again", **how: Any) -> "pd.DataFrame":
    """Read a table that `save_table` wrote.

    Args:
        path: of the table.
        remedy: what to do if it is damaged, the end of the sentence.
        how: see `pandas.read_csv`.

    Raises:
        NeuroglotError: it is missing, empty, no table, or not what was written.
    """
    import pandas as pd

    path = Path(path)
    try:
        data, known = path.read_bytes(), _digests(path)
        while known and digest_of_bytes(data) not in known:
            before, data, known = data, path.read_bytes(), _digests(path)
            if data == before:  # else another process wrote it between the two reads
                raise ValueError("its checksum does not match")
        table: pd.DataFrame = pd.read_csv(path, **how)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise NeuroglotError(f"{path} is missing or damaged ({first_line(error)}); {remedy}.") from error
    if not known:
        note_unsealed(path)
    return table


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _digests(path: Path) -> list[str]:
    try:
        return [line for line in _beside(path).read_bytes().decode("ascii", "replace").split("\n") if line]
    except (FileNotFoundError, NotADirectoryError):
        return []
