"""A directory of one file a language, or one folder of files, each named by its tag."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from neuroglot.corpus.columns import Columns, column_named, text_of
from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.corpus.formats import Rows, name_and_format
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.languages.tags import is_language, is_plain_language, language_name, language_tag

__all__ = ["files_by_language", "files_of", "open_directory"]


def files_by_language(
    path: Path, languages: Sequence[str] | None, forms: Sequence[str] = (), *, folders: bool = False
) -> dict[str, Path]:
    """Language → its file in a directory. What was taken and what was left out is said, if anything was left out.

    Args:
        path: the directory.
        languages: only these; a word that is a language's code, too (`new.txt`), is read if it is asked for here.
        forms: the formats that may be read; by default all.
        folders: a folder may be named by a language, too; its files are `files_of` it.

    Raises:
        NeuroglotError: there is none, or two are of one language.
    """
    wanted = None if languages is None else {language_tag(tag) for tag in languages}
    found: dict[str, Path] = {}
    left_out: list[str] = []
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise NeuroglotError(f"{path} cannot be read: {error.strerror or error}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        reason = _why_not(entry, wanted, forms, folders)
        if reason is not None:
            if reason:
                left_out.append(f"{entry.name} ({reason})")
            continue
        tag = language_tag(_name(entry))
        if tag in found:
            raise NeuroglotError(f"{path} has two places for {tag}: {found[tag].name} and {entry.name}; keep one.")
        found[tag] = entry
    left = f"left out {', '.join(left_out[:12])}{f' and {len(left_out) - 12} more' if len(left_out) > 12 else ''}"
    if not found:
        raise NeuroglotError(
            f"{path} holds no file named by a language, such as fr.txt or fr.jsonl"
            + (", nor a folder such as fr" if folders else "")
            + (f", among {', '.join(languages)}" if languages else "")
            + (f"; {left}." if left_out else ".")
        )
    if left_out:
        read = ", ".join(entry.name for entry in found.values())
        warnings.warn(f"{path}: read {read}; {left}.", NeuroglotWarning, stacklevel=2)
    return found


def files_of(entry: Path) -> list[Path]:
    """The files of a language: its one file, or those of its folder, by name. What is left out of a folder is said.

    Raises:
        NeuroglotError: the folder cannot be read.
    """
    if not entry.is_dir():
        return [entry]
    files, left = _inside(entry)
    if left:
        more = f" and {len(left) - 12} more" if len(left) > 12 else ""
        warnings.warn(
            f"{entry}: left out {', '.join(left[:12])}{more} (directories, or of no format that is read).",
            NeuroglotWarning,
            stacklevel=2,
        )
    return files


def _inside(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that are of a format that is read, by name, and the names of what else is in it."""
    try:
        inside = [each for each in sorted(folder.iterdir()) if not each.name.startswith(".")]
    except OSError as error:
        raise NeuroglotError(f"{folder} cannot be read: {error.strerror or error}.") from error
    files = [each for each in inside if each.is_file() and name_and_format(each)[1] is not None]
    return files, [each.name for each in inside if each not in files]


def _name(entry: Path) -> str:
    """What an entry is called without its endings; a folder has none."""
    return entry.name if entry.is_dir() else name_and_format(entry)[0]


def _why_not(entry: Path, wanted: set[str] | None, forms: Sequence[str], folders: bool) -> str | None:
    """Why an entry of a directory is not read: empty where it is of a language not asked for; None if it is read."""
    name = _name(entry)
    if entry.is_dir():
        if not folders or not is_language(name) or not _inside(entry)[0]:
            return "a directory"
    else:
        form = name_and_format(entry)[1]
        if form is None or (forms and form not in forms):
            return "of no format that is read"
    if not is_language(name):
        return "named by no language"
    tag = language_tag(name)
    if wanted is not None:
        return None if tag in wanted else ""
    if not is_plain_language(name):
        return f"a word; if it is {language_name(tag)}, ask for --languages {name.strip().lower()}"
    return None


def open_directory(path: Path, languages: Sequence[str] | None, parallel: bool, text_column: str) -> Corpus:
    """A directory of a file or folder a language; see `load_corpus` for the arguments and what is raised."""
    found = files_by_language(path, languages, folders=True)
    columns = {tag: [_texts(file, text_column) for file in files_of(entry)] for tag, entry in found.items()}
    lengths = {found[tag]: sum(map(len, parts)) for tag, parts in columns.items()}
    if parallel and len(set(lengths.values())) > 1:
        short = min(lengths, key=lengths.__getitem__)
        long = max(lengths, key=lengths.__getitem__)
        raise NeuroglotError(
            f"{short}, line {lengths[short] + 1}: the file ends here while {long} has {lengths[long]} lines, so the "
            "files are not aligned; a parallel corpus needs line i of every file to mean the same."
        )
    return Corpus({tag: Documents(_reader(parts)) for tag, parts in columns.items()}, parallel=parallel, name=str(path))


def _reader(parts: Sequence[Columns]) -> Callable[[], Iterator[str | None]]:
    """The texts of files, one after the other."""
    readers = [part.reader("text") for part in parts]
    return lambda: chain.from_iterable(reader() for reader in readers)


def _texts(file: Path, text_column: str) -> Columns:
    """The text of one file, as a column of that name."""
    rows = Rows(file, name_and_format(file)[1] or "text")
    if file.stat().st_size == 0:
        raise NeuroglotError(f"{file} is empty; put text in it or leave it out.")
    column = (
        "text"
        if rows.form == "text"
        else (column_named(rows.first_columns, text_column) or column_named(rows.columns, text_column))
    )
    if column is None:
        raise NeuroglotError(
            f"{file} has no column {text_column!r}; it has {', '.join(rows.columns)}; name the one that holds text "
            "with --text-column (text_column=…)."
        )
    return Columns(
        rows,
        column,
        ["text"],
        lambda: ((number, [text_of(cell, column, rows.place(number))]) for number, (cell,) in rows([column])),
    )
