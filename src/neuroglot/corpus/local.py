"""Local files as a corpus, memory-mapped; what is wrong with one is named by file and line."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.corpus.quiet import quiet
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import is_language, language_tag

__all__ = ["open_directory", "open_table"]

READERS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
LANGUAGE_COLUMNS = ("language", "lang")
KEY_COLUMNS = ("key", "id")
NOT_LANGUAGES = {
    "key",
    "text",
    "lang",
    "language",
}  # column names that are language codes too (`key` is Kupia)


def open_directory(path: Path, languages: Sequence[str] | None, parallel: bool, text_column: str) -> Corpus:
    """A directory of one file a language; see `load_corpus` for the arguments and what is raised."""
    found = sorted(p for p in path.iterdir() if p.suffix in READERS and is_language(p.stem))
    if languages is not None:
        wanted = {language_tag(tag) for tag in languages}
        found = [p for p in found if language_tag(p.stem) in wanted]
    if not found:
        raise NeuroglotError(
            f"{path} holds no file named by a language, such as fr.txt or fr.jsonl"
            + (f", among {', '.join(languages)}." if languages else ".")
        )
    documents = {}
    lengths = {}
    for file in found:
        if file.stem in documents:
            raise NeuroglotError(f"{path} has two files for {file.stem}; keep one.")
        table = _read(file)
        if text_column not in table.column_names:
            raise NeuroglotError(f"{file} has no column {text_column!r}; it has {', '.join(table.column_names)}.")
        documents[file.stem] = Documents(_column(table, text_column))
        lengths[file] = len(table)
    if parallel and len(set(lengths.values())) > 1:
        short = min(found, key=lambda file: lengths[file])
        raise NeuroglotError(
            f"{short}, line {lengths[short] + 1}: the file ends here while {max(found, key=lambda f: lengths[f])} has "
            f"{max(lengths.values())} lines, so the files are not aligned; a parallel corpus needs line i of every "
            "file to mean the same."
        )
    return Corpus(documents, parallel=parallel, name=str(path))


def _column(table: Any, column: str, rows: Sequence[int] | None = None) -> Callable[[], Iterator[str | None]]:
    if rows is not None:
        table = table.select(rows)
    return lambda: iter(table[column])


def open_table(path: Path, parallel: bool | None, text_column: str) -> Corpus:
    """A file that says which language each text is in; see `load_corpus` for the arguments and what is raised."""
    if path.suffix not in READERS or path.suffix == ".txt":
        hint = (
            "put it in a directory as fr.txt for French" if path.suffix == ".txt" else "use jsonl, csv, tsv or parquet"
        )
        raise NeuroglotError(f"{path} does not say which language its text is in; {hint}.")
    table = _read(path)
    columns = table.column_names
    language_column = next((name for name in LANGUAGE_COLUMNS if name in columns), None)
    if language_column is not None and text_column in columns:
        return _by_language_column(path, table, language_column, parallel, text_column)
    if text_column in columns and isinstance(table[0][text_column], dict):
        return _nested(path, table, text_column)
    tags = [name for name in columns if _is_text_of_a_language(table, name)]
    if not tags:
        raise NeuroglotError(
            f"{path} has the columns {', '.join(columns)}: neither a language and a {text_column} column, nor one "
            "column a language; rename them or name the text column."
        )
    key = next((name for name in KEY_COLUMNS if name in columns and name not in tags), None)
    return Corpus(
        {tag: Documents(_column(table, tag)) for tag in tags},
        parallel=parallel is not False,
        keys=_keys(path, table[key]) if key else None,
    )


def _is_text_of_a_language(table: Any, column: str) -> bool:
    """Whether a column is named by a language and holds text (`id` may be Indonesian, or a number)."""
    if column.lower() in NOT_LANGUAGES or not is_language(column):
        return False
    return str(table.features[column].dtype) in ("string", "large_string")


def _keys(path: Path, keys: Iterable[Any]) -> list[str]:
    """The samples' keys, each of them once."""
    seen: dict[str, int] = {}
    for row, key in enumerate(map(str, keys)):
        if key in seen:
            raise NeuroglotError(
                f"{path}, line {_line(path, row)}: the key {key!r} was used before, on line {_line(path, seen[key])}; "
                "every sample needs its own."
            )
        seen[key] = row
    return list(seen)


def _nested(path: Path, table: Any, text_column: str) -> Corpus:
    """Rows of {"key": …, "text": {language: text}}."""
    tags: dict[str, None] = {}
    for row, cell in enumerate(table[text_column]):
        if not isinstance(cell, dict):
            raise NeuroglotError(f"{path}, line {_line(path, row)}: {text_column} is not an object of language: text.")
        for tag in cell:
            if tag not in tags and not is_language(tag):
                raise NeuroglotError(f"{path}, line {_line(path, row)}: {tag!r} is not a language tag (BCP-47).")
            tags[tag] = None
    key = next((name for name in KEY_COLUMNS if name in table.column_names), None)

    def column(tag: str) -> Callable[[], Iterator[str | None]]:
        return lambda: (cell.get(tag) for cell in table[text_column])

    return Corpus(
        {tag: Documents(column(tag)) for tag in tags},
        parallel=True,
        keys=_keys(path, table[key]) if key else None,
    )


def _by_language_column(
    path: Path, table: Any, language_column: str, parallel: bool | None, text_column: str
) -> Corpus:
    """Rows of language and text; with a key column and `parallel`, rows of one key are one sample."""
    rows: dict[str, list[int]] = {}
    for row, tag in enumerate(table[language_column]):
        if tag not in rows:
            if not isinstance(tag, str) or not is_language(tag):
                raise NeuroglotError(f"{path}, line {_line(path, row)}: {tag!r} is not a language tag (BCP-47).")
            rows[tag] = []
        rows[tag].append(row)
    if not parallel:
        return Corpus({tag: Documents(_column(table, text_column, mine)) for tag, mine in rows.items()})
    key = next((name for name in KEY_COLUMNS if name in table.column_names), None)
    if key is None:
        raise NeuroglotError(f"{path} has no key column, so its rows cannot be aligned; add one named key.")
    keys = [str(value) for value in table[key]]
    order = {name: None for name in keys}
    places: dict[str, dict[str, int]] = {}
    for tag, mine in rows.items():
        place: dict[str, int] = {}
        for row in mine:
            if keys[row] in place:
                raise NeuroglotError(
                    f"{path}, line {_line(path, row)}: the key {keys[row]!r} was used before in {tag}, on line "
                    f"{_line(path, place[keys[row]])}; every sample needs its own."
                )
            place[keys[row]] = row
        places[tag] = place

    def column(tag: str) -> Callable[[], Iterator[str | None]]:
        return lambda: (table[places[tag][k]][text_column] if k in places[tag] else None for k in order)

    return Corpus({tag: Documents(column(tag)) for tag in rows}, parallel=True, keys=list(order))


def _line(path: Path, row: int) -> int:
    """The line of a file that holds row `row` (both files with and without a header row)."""
    return row + (2 if path.suffix in (".csv", ".tsv") else 1)


def _read(path: Path) -> Any:
    """A local file as a memory-mapped table, or a sentence that names the line it fails on."""
    options: dict[str, Any] = {"sep": "\t"} if path.suffix == ".tsv" else {}
    if path.suffix in (".csv", ".tsv"):
        options["keep_default_na"] = False  # "null" and "NA" are words of some language
    try:
        if path.stat().st_size == 0:
            raise NeuroglotError(f"{path} is empty; put text in it or leave it out.")
        if path.suffix == ".jsonl":  # whose reader lets broken UTF-8 through, to fail much later
            with path.open(encoding="utf-8") as text:
                for _ in text:
                    pass
        import datasets

        with quiet():
            table = datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train", **options)
    except NeuroglotError:
        raise
    except Exception as error:  # datasets wraps every reader's own exceptions
        raise NeuroglotError(_what_is_wrong(path, error)) from error
    if len(table) == 0:
        raise NeuroglotError(f"{path} is empty; put text in it or leave it out.")
    return table


def _what_is_wrong(path: Path, error: Exception) -> str:
    """Find the first line that a reader would trip over, now that one did."""
    if path.suffix == ".parquet":
        return f"{path} is not a readable parquet file ({error.__cause__ or error})."
    width = None
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as bad:
                return f"{path}, line {number}: byte {bad.start + 1} is not UTF-8; save the file as UTF-8."
            if path.suffix == ".jsonl" and line.strip():
                try:
                    if not isinstance(json.loads(line), dict):
                        return f"{path}, line {number}: not a JSON object; write one {{…}} a line."
                except json.JSONDecodeError as bad:
                    return f"{path}, line {number}: not valid JSON ({bad.msg} at column {bad.colno})."
            if path.suffix in (".csv", ".tsv"):
                cells = len(next(csv.reader([line], delimiter="\t" if path.suffix == ".tsv" else ",")))
                width = width or cells
                if cells > width:
                    return (
                        f"{path}, line {number}: {cells} cells where the header has {width}; quote cells with commas."
                    )
    return f"{path} cannot be read: {error.__cause__ or error}."
