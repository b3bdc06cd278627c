"""Text by language.

A `Corpus` maps each language to its documents. A *parallel* corpus is made of samples, each one meaning in several
languages, and keeps that alignment. Everything is read through the `datasets` library: memory-mapped from local
files, streamed from the Hugging Face hub. Which layouts are understood is said at `load_corpus`.
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import datasets
from datasets.utils.logging import is_progress_bar_enabled

from neuroglot.errors import NeuroglotError
from neuroglot.languages import is_language, language_tag

__all__ = ["Corpus", "load_corpus"]

READERS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
LANGUAGE_COLUMNS = ("language", "lang")
KEY_COLUMNS = ("key", "id")
NOT_LANGUAGES = {
    "key",
    "text",
    "lang",
    "language",
}  # column names that are language codes too (`key` is Kupia)


class Documents:
    """The documents of one language, in order; iterate as often as you like.

    `read` gives a fresh iterator over the texts, with None or blank text where a sample lacks this language.
    """

    def __init__(self, read: Callable[[], Iterator[str | None]]):
        self._read = read

    def aligned(self) -> Iterator[str | None]:
        """Every sample of a parallel corpus in order, None where this language lacks it."""
        for text in self._read():
            yield text if text and text.strip() else None

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.aligned() if text is not None)


class Corpus:
    """Text by language: `corpus["fr"]` are the French documents, `corpus.languages` the tags, in order.

    A parallel corpus has `keys`: one for each sample, or None where the source names none; `samples()` walks it.
    """

    def __init__(
        self,
        documents: Mapping[str, Iterable[str | None] | Documents],
        *,
        parallel: bool = False,
        keys: Sequence[str] | None = None,
        name: str = "corpus",
    ):
        self.name = name
        self.parallel = parallel
        self.keys = keys
        self._documents = {
            language_tag(tag): texts if isinstance(texts, Documents) else Documents(_reader(texts))
            for tag, texts in documents.items()
        }
        if len(self._documents) < len(documents):
            raise NeuroglotError(f"{name} has two names for one language among {', '.join(documents)}; keep one.")

    @property
    def languages(self) -> tuple[str, ...]:
        """The language tags, in the order in which results will list them."""
        return tuple(self._documents)

    def __getitem__(self, language: str) -> Documents:
        tag = language_tag(language)
        if tag not in self._documents:
            raise NeuroglotError(f"{self.name} has no {tag}; it has {', '.join(self.languages)}.")
        return self._documents[tag]

    def __repr__(self) -> str:
        kind = "parallel corpus" if self.parallel else "corpus"
        return f"<{kind} {self.name}: {', '.join(self.languages)}>"

    def samples(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        """The samples of a parallel corpus: key, and text by language (None where it is missing).

        Raises:
            NeuroglotError: the corpus is not parallel.
        """
        if not self.parallel:
            raise NeuroglotError(
                f"{self.name} is not a parallel corpus; load it with parallel=True if line i means the same in every "
                "language."
            )
        keys = self.keys if self.keys is not None else (str(i) for i in itertools.count())
        columns = [documents.aligned() for documents in self._documents.values()]
        for key, texts in zip(keys, zip(*columns, strict=True), strict=False):
            yield key, dict(zip(self.languages, texts, strict=True))

    def select(self, languages: Sequence[str]) -> "Corpus":
        """The same text, of these languages only and in this order."""
        return Corpus({tag: self[tag] for tag in languages}, parallel=self.parallel, keys=self.keys, name=self.name)

    def split(self, every: int = 5) -> tuple["Corpus", "Corpus"]:
        """Two disjoint corpora: all but every `every`-th document, and those held out.

        The cut is by position, so a parallel corpus holds out the same samples in every language, and a streamed one
        is cut the same way each time.
        """
        if every < 2:
            raise NeuroglotError(f"split holds out every n-th document, and n must be at least 2, not {every}.")

        def part(held_out: bool) -> Corpus:
            def mine(index: int) -> bool:
                return (index % every == every - 1) is held_out

            def reader(documents: Documents) -> Callable[[], Iterator[str | None]]:
                source = documents.aligned if self.parallel else documents.__iter__
                return lambda: (text for index, text in enumerate(source()) if mine(index))

            return Corpus(
                {tag: Documents(reader(documents)) for tag, documents in self._documents.items()},
                parallel=self.parallel,
                keys=None if self.keys is None else [key for i, key in enumerate(self.keys) if mine(i)],
                name=f"{self.name} ({'held out' if held_out else 'not held out'})",
            )

        return part(False), part(True)


def _reader(texts: Iterable[str | None]) -> Callable[[], Iterator[str | None]]:
    return lambda: iter(texts)


def load_corpus(
    source: str | Path,
    *,
    languages: Sequence[str] | None = None,
    parallel: bool | None = None,
    text_column: str = "text",
) -> Corpus:
    """Open text by language.

    Args:
        source: one of

            - `starter`: the built-in parallel corpus of short sentences in 12 languages;
            - a directory of one file a language, named by its tag: `fr.txt` (a document a line), `fr.jsonl`,
              `fr.csv`, `fr.tsv` or `fr.parquet` (a text column);
            - a `.jsonl`, `.csv`, `.tsv` or `.parquet` file with a `language` and a text column; or with one column a
              language (parallel); or, as JSON, with `{"key": …, "text": {language: text}}` a line (parallel);
            - `hf:NAME`, a dataset on the hub or a local dataset directory, streamed; see `open_hub`.
        languages: keep only these, in this order. Needed where the source cannot list them.
        parallel: whether document *i* means the same in every language. By default known from the layout (False for
            a directory); True for a directory makes unequal lengths an error.
        text_column: the column that holds text where the layout has one.

    Raises:
        NeuroglotError: nothing is there, or it is empty, badly encoded, malformed, misaligned or has a duplicate key;
            the sentence names the file and line.
    """
    name = str(source)
    if name == "starter":
        source = Path(str(files("neuroglot") / "starter" / "corpus.jsonl"))
    if name.startswith("hf:"):
        corpus = open_hub(name[3:], languages, text_column)
        corpus.parallel = corpus.parallel if parallel is None else parallel
    elif Path(source).is_dir():
        corpus = _open_directory(Path(source), languages, bool(parallel), text_column)
    elif Path(source).is_file():
        corpus = _open_table(Path(source), parallel, text_column)
    else:
        raise NeuroglotError(
            f"There is no corpus at {source}; give a directory of {{language}}.txt files, a .jsonl, .csv, .tsv or "
            ".parquet file, hf:DATASET, or starter."
        )
    corpus.name = name
    if languages is not None:
        corpus = corpus.select(languages)
    for tag in corpus.languages:
        if next(iter(corpus[tag]), None) is None:
            raise NeuroglotError(f"{source} has no text in {tag}; add some or leave the language out.")
    return corpus


# --- local files -----------------------------------------------------------------------------------------------------


def _open_directory(path: Path, languages: Sequence[str] | None, parallel: bool, text_column: str) -> Corpus:
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


def _open_table(path: Path, parallel: bool | None, text_column: str) -> Corpus:
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
        with _quiet():
            table = datasets.load_dataset(READERS[path.suffix], data_files=str(path), split="train", **options)
    except NeuroglotError:
        raise
    except Exception as error:  # datasets wraps every reader's own exceptions
        raise NeuroglotError(_what_is_wrong(path, error)) from error
    if len(table) == 0:
        raise NeuroglotError(f"{path} is empty; put text in it or leave it out.")
    return table


class _quiet:
    """No progress bars of `datasets` while a small file is read."""

    def __enter__(self) -> None:
        self.shown = is_progress_bar_enabled()
        datasets.disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        if self.shown:
            datasets.enable_progress_bars()


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


# --- the Hugging Face hub --------------------------------------------------------------------------------------------


def open_hub(name: str, languages: Sequence[str] | None, text_column: str = "text") -> Corpus:
    """Stream a dataset of the hub (or a local dataset directory), language by language.

    `name` is `DATASET?config=…&column=…&split=…&revision=…`, where each part may hold `{language}`. Examples, each the
    layout of a well-known dataset:

    - `wikimedia/wikipedia?config=20231101.{language}`: one config a language;
    - `csebuetnlp/xlsum`: configs named by the language (`french`) or its tag are found by themselves;
    - `openlanguagedata/flores_plus?config={language}&split=dev`: parallel, say so with `parallel=True`;
    - `org/table?column=sentence_{language}`: one column a language (parallel);
    - `bigscience-data/roots_{language}_wikipedia`: one dataset a language.

    Raises:
        NeuroglotError: the hub or the dataset cannot be reached, or its languages cannot be told.
    """
    dataset, _, query = name.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    unknown = sorted(set(options) - {"config", "column", "split", "revision"})
    if unknown:
        raise NeuroglotError(f"hf:{name}: {unknown[0]} is not an option; there are config, column, split and revision.")
    column = options.get("column", text_column)
    split = options.get("split", "train")
    revision = options.get("revision")

    def stream(language: str, config: str | None) -> Documents:
        # The tag as it was asked for fills the template: FLORES wants fra_Latn, Wikipedia fr.
        path = dataset.format(language=language)
        config = config.format(language=language) if config else None
        field = column.format(language=language)
        opened = _reach(
            name, lambda: datasets.load_dataset(path, config, split=split, revision=revision, streaming=True)
        )
        if opened.column_names is not None and field not in opened.column_names:
            raise NeuroglotError(
                f"hf:{name} has no column {field!r}; it has {', '.join(opened.column_names)}; add ?column=NAME."
            )
        return Documents(lambda: (row[field] for row in opened))

    templated = "{language}" in dataset + column + options.get("config", "")
    if templated:
        if not languages:
            raise NeuroglotError(f"hf:{name} holds {{language}}: say which languages to put there.")
        configs: dict[str, str | None] = dict.fromkeys(languages, options.get("config"))
    else:
        found = _reach(name, lambda: datasets.get_dataset_config_names(dataset, revision=revision))
        named = {tag: config for config in found for tag in [_language_of_config(config)] if tag}
        configs = {tag: named.get(language_tag(tag)) for tag in languages or named}
        missing = [tag for tag, config in configs.items() if config is None]
        if missing or not configs:
            raise NeuroglotError(
                f"hf:{name} has no config for {missing[0] if missing else 'any language'} (it has "
                f"{', '.join(found[:8])}{' …' if len(found) > 8 else ''}); add ?config=… or ?column=… with "
                "{language}."
            )
    return Corpus(
        {tag: stream(tag, config) for tag, config in configs.items()},
        parallel="{language}" in column and "{language}" not in dataset + options.get("config", ""),
    )


def _language_of_config(config: str) -> str | None:
    """The language a config is named by: `20231101.fr`, `fra_Latn`, `fr` or `french`."""
    import langcodes  # its table of names is large, and only hub datasets need it

    last = config.rsplit(".", 1)[-1]
    if is_language(last) and len(last.replace("-", "_").split("_")[0]) <= 3:
        return language_tag(last)
    try:
        return language_tag(langcodes.find(last.replace("_", " ")).to_tag())
    except LookupError:
        return None


def _reach(name: str, call: Callable[[], Any]) -> Any:
    try:
        with _quiet():
            return call()
    except Exception as error:  # the hub client, the network and dataset scripts each raise their own
        reason = str(error).strip().split("\n")[0]
        raise NeuroglotError(
            f"hf:{name} cannot be opened ({reason}); check its name and the network, or download it and give its path."
        ) from error
