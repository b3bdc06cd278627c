"""Text by language, from whatever it is in."""

import os
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from importlib.resources import files
from pathlib import Path

from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.directories import open_directory
from neuroglot.corpus.hub import open_hub
from neuroglot.corpus.local import open_table
from neuroglot.corpus.texts import check_texts
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag

__all__ = ["check_corpus", "load_corpus"]

BUILT_IN = {"starter": "corpus.jsonl", "questions": "questions.jsonl", "openings": "openings.jsonl"}


def check_corpus(source: str | Path, languages: Sequence[str] | None = None) -> None:
    """Refuse a source at which no corpus can be, and tags of no language. Nothing is read.

    Raises:
        NeuroglotError: as said.
    """
    if not isinstance(source, str | os.PathLike):
        raise NeuroglotError(f"A corpus is opened by its name or path, and not by {source!r:.40}.")
    for tag in languages or ():
        language_tag(tag)
    name = str(source)
    if name not in BUILT_IN and not name.startswith("hf:") and not os.path.exists(source):
        raise NeuroglotError(
            f"There is no corpus at {source}; give a directory of {{language}}.txt files, a .jsonl, .csv, .tsv or "
            ".parquet file, hf:DATASET, or starter."
        )


def load_corpus(
    source: str | Path,
    *,
    languages: Iterable[str] | None = None,
    parallel: bool | None = None,
    text_column: str = "text",
    language_column: str | None = None,
) -> Corpus:
    """Open text by language.

    Args:
        source: one of

            - `starter`: the built-in parallel corpus of short sentences in 12 languages; `questions` and `openings`: as
              parallel, to be answered and to be continued;
            - a directory of one file a language, named by its tag: `fr.txt` (a document a line), `fr.jsonl`,
              `fr.csv`, `fr.tsv` or `fr.parquet` (a text column); any but Parquet may be packed (`fr.txt.gz`);
            - a `.jsonl`, `.csv`, `.tsv` or `.parquet` file with a `language` and a text column; or with one column a
              language (parallel); or, as JSON, with `{"key": …, "text": {language: text}}` a line (parallel);
            - `hf:NAME`, a dataset on the hub or a local dataset directory, streamed; see `open_hub`.
        languages: keep only these, in this order. Needed where the source cannot list them.
        parallel: whether document *i* means the same in every language. By default known from the layout (False for
            a directory); True for a directory makes unequal lengths an error.
        text_column: the column that holds text where the layout has one. Capitals and outer blanks do not count.
        language_column: the column that says the language; by default `language` or `lang`, if there is one.

    Raises:
        NeuroglotError: nothing is there, or it is empty, badly encoded, malformed, misaligned or has a duplicate key;
            the sentence names the file and line.

    Warns:
        NeuroglotWarning: some of it was left out, or two spellings of one language were taken for one.
    """
    if languages is not None:
        check_texts(languages, "languages")
        languages = sorted(languages) if isinstance(languages, AbstractSet) else list(languages)  # a set has no order
    check_corpus(source, languages)
    name = str(source)
    if name in BUILT_IN:
        source = Path(str(files("neuroglot.corpus") / "starter" / BUILT_IN[name]))
    if name.startswith("hf:"):
        corpus = open_hub(name[3:], languages, text_column, language_column, parallel)
    elif os.path.isdir(source):
        if language_column is not None:
            raise NeuroglotError(f"{source} is a directory of one file a language, so no column says it; leave it out.")
        corpus = open_directory(Path(source), languages, bool(parallel), text_column)
    else:
        corpus = open_table(Path(source), parallel, text_column, language_column, languages)
    corpus.name = name
    if languages is not None:
        corpus = corpus.select(languages)
    for tag in corpus.languages:
        if next(iter(corpus[tag]), None) is None:
            raise NeuroglotError(f"{source} has no text in {tag}; add some or leave the language out.")
    return corpus
