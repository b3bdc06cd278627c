"""One file that says which language each text is in: a language column, a column a language, or objects of both."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neuroglot.corpus.columns import Columns, column_named, text_of
from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.corpus.formats import Rows, name_and_format
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.languages.tags import NO_LANGUAGE, is_language, is_plain_language, language_tag, named

__all__ = ["LANGUAGE_COLUMNS", "OBJECTS", "open_table"]

LANGUAGE_COLUMNS = ("language", "lang")
OBJECTS = "translation"
"""What `datasets` calls a column of objects of language and text."""
KEY_COLUMNS = ("key", "id")
NOT_LANGUAGES = {"key", "text", *LANGUAGE_COLUMNS}
_IDENTIFIER = re.compile(r"[\W\d_]*|(?=\S*\d)\S+")  # no letter, or one word with a digit


def open_table(
    path: Path,
    parallel: bool | None,
    text_column: str,
    language_column: str | None = None,
    languages: Sequence[str] | None = None,
) -> Corpus:
    """A file that says which language each text is in; see `load_corpus` for the arguments and what is raised."""
    _, form = name_and_format(path)
    if form is None or form == "text":
        hint = "use jsonl, csv, tsv or parquet" if form is None else "put it in a directory as fr.txt for French"
        raise NeuroglotError(f"{path} does not say which language its text is in; {hint}.")
    rows = Rows(path, form)
    language_columns = LANGUAGE_COLUMNS if language_column is None else (language_column,)
    names = rows.first_columns
    if not all(any(column_named(names, each) for each in some) for some in ((text_column,), language_columns)):
        names = rows.columns
    text = column_named(names, text_column)
    if language_column is not None:
        language = column_named(names, language_column)
        if language is None:
            raise NeuroglotError(f"{path} has no column {language_column!r}; it has {', '.join(names)}.")
    else:
        language = next((name for kind in language_columns if (name := column_named(names, kind))), None)
    if language is not None:
        if text is None or text == language:
            raise NeuroglotError(
                f"{path} has the language column {language} but no column {text_column!r}; it has {', '.join(names)}; "
                "name the one that holds text with --text-column (text_column=…)."
            )
        return _by_language_column(rows, language, text, parallel)
    objects = text or column_named(rows.columns, OBJECTS)
    if objects is not None and form in ("json", "parquet"):
        first = next((cells[0] for _, cells in rows([objects]) if cells[0]), None)
        if isinstance(first, dict):
            return _nested(rows, objects, parallel)
    if text is None:
        return _by_columns(rows, parallel, text_column, languages)
    raise NeuroglotError(
        f"{path} has the text column {text} but none that says its language; it has {', '.join(names)}; name that one "
        f"with --language-column (language_column=…), or put the file in a directory as fr{path.suffix} for French."
    )


def _key_column(names: Sequence[str], beside: Iterable[str]) -> str | None:
    found = (column_named(names, kind) for kind in KEY_COLUMNS)
    return next((name for name in found if name is not None and name not in beside), None)


# --- a column a language ---------------------------------------------------------------------------------------------


def _by_columns(rows: Rows, parallel: bool | None, text_column: str, languages: Sequence[str] | None) -> Corpus:
    """Rows of one text in several languages."""
    if not rows.columns:
        raise NeuroglotError(f"{rows.path} has no rows; give text, by language.")
    wanted = None if languages is None else {language_tag(tag) for tag in languages}
    found = [name for name in rows.columns if _is_of_a_language(name, wanted or ())]
    asked = [name for name in found if wanted and language_tag(name) in wanted]
    found = asked if wanted and {language_tag(name) for name in asked} == wanted else found
    identifier = column_named(rows.columns, "id")
    key = _key_column(rows.columns, [name for name in found if name != identifier])
    names = list(dict.fromkeys([*found, *([key] if key else [])]))
    if found:
        columns = Columns(rows, "a column a language", names, lambda: _cells(rows, names, loose={key, identifier}))
        if identifier in found and _are_identifiers(columns, identifier):
            found.remove(identifier)
        else:
            key = _key_column(rows.columns, found)
    if not found:
        raise NeuroglotError(
            f"{rows.path} has the columns {', '.join(rows.columns)}: neither a language and a {text_column} column, "
            "nor one column a language; rename them, name them with --language-column and --text-column, or, if these "
            "are the cells of the first row, add a header above it."
        )
    others = [name for name in rows.columns if name not in found and name != key and name.strip()]
    _check_header(rows, columns, found, others)
    _check_letters(columns, found)
    tags = _one_a_language(rows.path, found, "columns")
    if others and wanted is None:
        warnings.warn(
            f"{rows.path}: read the columns {', '.join(found)}{f', and {key} as keys' if key else ''}; left out "
            f"{', '.join(others)}, named by no language.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return Corpus(
        {tag: Documents(columns.reader(name)) for tag, name in tags.items()},
        parallel=parallel is not False,
        keys=_keys(columns, key) if key else None,
    )


def _is_of_a_language(name: str, wanted: Collection[str]) -> bool:
    """Whether a column of this name is one of the languages wanted, or by its name one of any."""
    if name.strip().casefold() in NOT_LANGUAGES or not is_language(name):
        return False
    return language_tag(name) in wanted or is_plain_language(name)


def _cells(rows: Rows, names: Sequence[str], loose: set[str | None]) -> Iterator[tuple[int, list[str | None]]]:
    """The rows with every cell as text; what is `loose` may be a number, as identifiers are."""
    for number, cells in rows(names):
        place = rows.place(number)
        yield (
            number,
            [
                _key(cell) if name in loose else text_of(cell, name, place)
                for name, cell in zip(names, cells, strict=True)
            ],
        )


def _key(cell: Any) -> str | None:
    return None if cell is None else str(cell).encode("utf-8", "replace").decode()


def _are_identifiers(columns: Columns, name: str) -> bool:
    """Whether a column `id` holds identifiers rather than Indonesian."""
    return all(_IDENTIFIER.fullmatch(cell.strip()) for cell in columns(name) if cell)


def _check_header(rows: Rows, columns: Columns, found: Sequence[str], others: Sequence[str]) -> None:
    """Refuse a table whose first row seems to be one of language and text like the rest."""
    if len(found) == 1 and others:
        (name,) = found
        cells = [cell for cell in columns.distinct(name) if cell and cell.strip()]
        if cells and all(map(is_plain_language, cells)):
            raise NeuroglotError(
                f"{rows.path} seems to have no header: its first row is {', '.join(rows.columns)}, and under {name} "
                "there are only language tags; add a first row such as language,text."
            )


def _check_letters(columns: Columns, found: Sequence[str]) -> None:
    """Refuse a column that is named by a language and holds numbers only, such as `nr` or `ts`."""
    for name in found:
        filled = [cell for cell in columns.distinct(name) if cell and cell.strip()]
        if filled and not any(any(map(str.isalpha, cell)) for cell in filled):
            raise NeuroglotError(
                f"{columns.rows.path}: the column {name} ({named(language_tag(name))} by its name) holds no letters, "
                "where text should be; rename it, or leave the language out with --languages."
            )


def _one_a_language(path: Path, names: Sequence[str], what: str) -> dict[str, str]:
    """Language → its name, of which each language has one."""
    tags: dict[str, str] = {}
    for name in names:
        tag = language_tag(name)
        if tag in tags:
            raise NeuroglotError(f"{path} has two {what} for {tag}: {tags[tag]} and {name}; keep one.")
        tags[tag] = name
    return tags


def _keys(columns: Columns, name: str) -> list[str]:
    """The samples' keys, each of them once."""
    seen: dict[str, int] = {}
    for row, key in enumerate(map(str, columns(name))):
        if key in seen:
            before = columns.place(seen[key]).rpartition(", ")[2]
            raise NeuroglotError(
                f"{columns.place(row)}: the key {key!r} was used before, on {before}; every sample needs its own."
            )
        seen[key] = row
    return list(seen)


# --- objects of language and text ------------------------------------------------------------------------------------


def _nested(rows: Rows, text: str, parallel: bool | None) -> Corpus:
    """Rows of {"key": …, "text": {language: text}}."""
    spelled: dict[str, None] = {}
    for number, (cell,) in rows([text]):
        if not isinstance(cell, dict):
            raise NeuroglotError(f"{rows.place(number)}: {text} is not an object of language: text.")
        for tag in cell:
            if tag not in spelled and not is_language(tag):
                raise NeuroglotError(f"{rows.place(number)}: {tag!r} is not a language tag (BCP-47).")
            spelled[tag] = None
    tags = _merged(rows.path, list(spelled))
    key = _key_column(rows.columns, [text])

    def cells() -> Iterator[tuple[int, list[str | None]]]:
        for number, (cell, *keys) in rows([text, *([key] if key else [])]):
            place = rows.place(number)
            found: list[str | None] = []
            for tag, spellings in tags.items():
                texts = [text_of(cell.get(each), f"{text} in {each}", place) for each in spellings]
                several = [each for each in texts if each and each.strip()]
                if len(several) > 1:
                    raise NeuroglotError(f"{place}: {text} has two texts in {tag}; keep one.")
                found.append(several[0] if several else None)
            yield number, [*found, *map(_key, keys)]

    # a tag could be called as the key column is
    columns = Columns(rows, f"objects in {text}", [*(f"text {tag}" for tag in tags), *(["key"] if key else [])], cells)
    return Corpus(
        {tag: Documents(columns.reader(f"text {tag}")) for tag in tags},
        parallel=parallel is not False,
        keys=_keys(columns, "key") if key else None,
    )


def _merged(path: Path, spelled: Iterable[str]) -> dict[str, list[str]]:
    """Language → how it is spelled; several spellings of one are said."""
    tags: dict[str, list[str]] = {}
    for spelling in spelled:
        tags.setdefault(language_tag(spelling), []).append(spelling)
    if several := [f"{' and '.join(map(repr, each))} are {tag}" for tag, each in tags.items() if len(each) > 1]:
        warnings.warn(f"{path}: {'; '.join(several)}.", NeuroglotWarning, stacklevel=2)
    return tags


# --- a language column -----------------------------------------------------------------------------------------------


def _by_language_column(rows: Rows, language: str, text: str, parallel: bool | None) -> Corpus:
    """Rows of language and text; with a key column and `parallel`, rows of one key are one sample."""
    key = _key_column(rows.first_columns, [language, text])
    names = [language, text, *([key] if key else [])]
    columns = Columns(rows, f"{language} says the language of {text}", names, lambda: _tagged(rows, names))
    spelled = [tag for tag in columns.distinct(language) if tag is not None]
    left_out = [tag for tag in spelled if tag.strip().casefold() in NO_LANGUAGE]
    for tag in spelled:
        if tag not in left_out and not is_language(tag):
            row = next(i for i, cell in enumerate(columns(language)) if cell == tag)
            raise NeuroglotError(f"{columns.place(row)}: {tag!r} is not a language tag (BCP-47).")
    if left_out:
        warnings.warn(
            f"{rows.path}: left out the rows in {', '.join(left_out)}, of no one language.",
            NeuroglotWarning,
            stacklevel=2,
        )
    tags = _merged(rows.path, [tag for tag in spelled if tag not in left_out])
    if not tags:
        raise NeuroglotError(f"{rows.path} has no text in any language; its column {language} names none.")
    if not parallel:

        def reader(spellings: list[str]) -> Callable[[], Iterator[str | None]]:
            return lambda: columns.where(text, language, spellings)

        return Corpus({tag: Documents(reader(spellings)) for tag, spellings in tags.items()})
    if key is None:
        raise NeuroglotError(f"{rows.path} has no key column, so its rows cannot be aligned; add one named key.")
    return _aligned(columns, {each: tag for tag, some in tags.items() for each in some}, language, text, key)


def _tagged(rows: Rows, names: Sequence[str]) -> Iterator[tuple[int, list[str | None]]]:
    """Rows of language, text and perhaps a key. A row without text may lack its language; it is dropped then."""
    for number, (tag, text, *keys) in rows(names):
        place = rows.place(number)
        said = text_of(text, names[1], place)
        if tag is None or not str(tag).strip() or tag != tag:
            if said and said.strip():
                raise NeuroglotError(f"{place}: {names[0]} is empty, so the language of its text is not known.")
            continue
        if not isinstance(tag, str):
            raise NeuroglotError(f"{place}: {tag!r} is not a language tag (BCP-47).")
        yield number, [text_of(tag, names[0], place), said, *map(_key, keys)]


def _aligned(columns: Columns, tags: dict[str, str], language: str, text: str, key: str) -> Corpus:
    """Rows of one key as one sample."""
    order: dict[str, None] = {}
    places: dict[str, dict[str, int]] = {tag: {} for tag in tags.values()}
    for row, (spelling, cell) in enumerate(zip(columns(language), columns(key), strict=True)):
        tag, name = tags.get(spelling or ""), str(cell)
        if tag is None:
            continue
        order[name] = None
        if name in places[tag]:
            before = columns.place(places[tag][name]).rpartition(", ")[2]
            raise NeuroglotError(
                f"{columns.place(row)}: the key {name!r} was used before in {tag}, on {before}; every sample needs its "
                "own."
            )
        places[tag][name] = row

    def reader(rows: list[int | None]) -> Callable[[], Iterator[str | None]]:
        return lambda: columns.at(text, rows)

    return Corpus(
        {tag: Documents(reader([places[tag].get(name) for name in order])) for tag in places},
        parallel=True,
        keys=list(order),
    )
