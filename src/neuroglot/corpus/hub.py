"""Datasets of the Hugging Face hub as a corpus, streamed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs

from neuroglot.corpus.columns import column_named, text_of
from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.corpus.local import OBJECTS
from neuroglot.corpus.quiet import quiet
from neuroglot.errors import NeuroglotError, first_line
from neuroglot.languages.tags import is_language, language_tag
from neuroglot.storage.hub import hub_refusal

__all__ = ["open_hub", "unreached"]

LANGUAGE_COLUMNS = ("language", "lang", "language_code", "locale")


def open_hub(
    name: str,
    languages: Sequence[str] | None,
    text_column: str = "text",
    language_column: str | None = None,
    parallel: bool | None = None,
) -> Corpus:
    """Stream a dataset of the hub (or a local dataset directory), language by language.

    `name` is `DATASET?config=…&column=…&language=…&split=…&revision=…`, where dataset, config and column may hold
    `{language}`. Examples, each the layout of a well-known dataset:

    - `wikimedia/wikipedia?config=20231101.{language}`: one config a language;
    - `csebuetnlp/xlsum`: configs named by the language (`french`) or its tag are found by themselves;
    - `openlanguagedata/flores_plus?config={language}&split=dev`: parallel, say so with `parallel=True`;
    - `org/table?column=sentence_{language}`: one column a language (parallel);
    - `bigscience-data/roots_{language}_wikipedia`: one dataset a language;
    - `Helsinki-NLP/opus-100?config=en-fr`: objects of language and text in `translation` (parallel);
    - `org/table?language=lang`: a column says the language of each row. `language`, `lang`, `language_code` and
      `locale` are found by themselves. Each language streams the table anew.

    The rows of a language are those whose tag says it, whatever its spelling. Names of columns are found whatever their
    capitals and outer blanks.

    Raises:
        NeuroglotError: the hub or the dataset cannot be reached, its languages cannot be found, or its rows are to be
            aligned and a column says the language of each.
    """
    import datasets

    dataset, _, query = name.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    unknown = sorted(set(options) - {"config", "column", "language", "split", "revision"})
    if unknown:
        raise NeuroglotError(
            f"hf:{name}: {unknown[0]} is not an option; there are config, column, language, split and revision."
        )
    column = options.get("column", text_column)
    split = options.get("split", "train")
    revision = options.get("revision")

    def table(path: str, config: str | None) -> Any:
        return _reach(name, lambda: datasets.load_dataset(path, config, split=split, revision=revision, streaming=True))

    def stream(language: str, config: str | None, tagged: str | None = None) -> Documents:
        # The tag as it was asked for fills the template: FLORES wants fra_Latn, Wikipedia fr.
        opened = table(filled(dataset, language), filled(config, language) if config else None)
        field = filled(column, language)
        if opened.column_names is not None:
            field = _column(name, opened.column_names, field, "; add ?column=NAME")
        return Documents(lambda: _texts(name, opened, field, tagged, language_tag(language)))

    def filled(template: str, language: str) -> str:
        return template.replace("{language}", language)

    templated = "{language}" in dataset + column + options.get("config", "")
    if templated:
        if not languages:
            raise NeuroglotError(f"hf:{name} holds {{language}}: say which languages to put there.")
        configs: dict[str, str | None] = dict.fromkeys(languages, options.get("config"))
    else:
        found = _reach(name, lambda: datasets.get_dataset_config_names(dataset, revision=revision))
        wanted = options.get("language", language_column)
        tagged = objects = None
        if wanted is not None or options.get("config") is not None or len(found) == 1:
            first = _first(name, table(dataset, options.get("config")))
            tagged = _language_column(name, list(first), wanted)
            if "column" not in options and column_named(list(first), column) is None:
                column = column_named(list(first), OBJECTS) or column
            objects = first.get(column_named(list(first), column) or column)
        if tagged is None and isinstance(objects, dict):
            spelled = {language_tag(tag): tag for tag in objects if is_language(tag)}
            return Corpus(
                {tag: stream(tag, options.get("config")) for tag in languages or spelled},
                parallel=parallel is not False,
            )
        if tagged is not None:
            if parallel:
                raise NeuroglotError(
                    f"hf:{name} says the language of each row in its column {tagged!r}, and streamed rows cannot be "
                    "aligned by a key; download the file and give its path."
                )
            if not languages:
                raise NeuroglotError(
                    f"hf:{name} says the language of each row in its column {tagged!r}: say which languages to read."
                )
            return Corpus({tag: stream(tag, options.get("config"), tagged) for tag in languages})
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
        parallel="{language}" in column and "{language}" not in dataset + options.get("config", "")
        if parallel is None
        else parallel,
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


def _first(name: str, opened: Any) -> dict[str, Any]:
    """The first row of a table; empty where there is none."""
    return dict(_reach(name, lambda: next(iter(opened), {})))


def _column(name: str, columns: Sequence[str], wanted: str, remedy: str = "") -> str:
    """The column of this name, whatever its capitals and outer blanks."""
    found = column_named(columns, wanted)
    if found is None:
        raise NeuroglotError(f"hf:{name} has no column {wanted!r}; it has {', '.join(columns)}{remedy}.")
    return found


def _language_column(name: str, columns: Sequence[str], wanted: str | None) -> str | None:
    """The column that says the language of each row, if there is one."""
    if wanted is not None:
        return _column(name, columns, wanted)
    return next((found for each in LANGUAGE_COLUMNS if (found := column_named(columns, each))), None)


def _texts(name: str, rows: Any, column: str, tagged: str | None, tag: str) -> Iterator[str | None]:
    """The texts of a table, None where a row has none; those of one language where a column says which that is.

    Raises:
        NeuroglotError: the hub breaks off, a column is missing or holds something else than text.
    """
    tags: dict[Any, bool] = {}

    def is_it(said: Any) -> bool:
        if said not in tags:
            tags[said] = isinstance(said, str) and is_language(said.strip()) and language_tag(said.strip()) == tag
        return tags[said]

    for row in _rows(name, rows):
        field = _column(name, list(row), column, "; add ?column=NAME")
        if tagged is not None and not is_it(row[_column(name, list(row), tagged)]):
            continue
        cell = row[field]
        if isinstance(cell, dict):
            cell = next((cell[said] for said in cell if is_it(said)), None)
        yield text_of(cell, column, f"a row of hf:{name}")


def _rows(name: str, opened: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table as they arrive."""
    try:
        yield from opened
    except Exception as error:
        raise unreached(name, error) from error


def _reach(name: str, call: Callable[[], Any]) -> Any:
    try:
        with quiet():
            return call()
    except Exception as error:
        raise unreached(name, error) from error


def unreached(name: str, error: Exception) -> NeuroglotError:
    """One sentence for what the hub client, the network and dataset scripts raise, each in its own way."""
    reason = hub_refusal(error) or first_line(error)
    return NeuroglotError(
        f"hf:{name} cannot be opened ({reason}); check its name and the network, or download it and give its path."
    )
