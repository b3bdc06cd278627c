"""Datasets of the Hugging Face hub as a corpus, streamed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs

from neuroglot.corpus.columns import text_of
from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.corpus.quiet import quiet
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import is_language, language_tag

__all__ = ["open_hub"]


def open_hub(
    name: str, languages: Sequence[str] | None, text_column: str = "text", language_column: str | None = None
) -> Corpus:
    """Stream a dataset of the hub (or a local dataset directory), language by language.

    `name` is `DATASET?config=…&column=…&split=…&revision=…`, where each part may hold `{language}`. Examples, each the
    layout of a well-known dataset:

    - `wikimedia/wikipedia?config=20231101.{language}`: one config a language;
    - `csebuetnlp/xlsum`: configs named by the language (`french`) or its tag are found by themselves;
    - `openlanguagedata/flores_plus?config={language}&split=dev`: parallel, say so with `parallel=True`;
    - `org/table?column=sentence_{language}`: one column a language (parallel);
    - `bigscience-data/roots_{language}_wikipedia`: one dataset a language.

    With a language column, the rows of each of `languages` are picked from one stream, whatever their tag's spelling.

    Raises:
        NeuroglotError: the hub or the dataset cannot be reached, or its languages cannot be found.
    """
    import datasets

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
        return Documents(lambda: (text_of(row[field], field, "a row of the dataset") for row in opened))

    if language_column is not None:
        if not languages:
            raise NeuroglotError(f"hf:{name} is streamed, so say which languages its column {language_column} has.")
        rows = _reach(
            name,
            lambda: datasets.load_dataset(
                dataset, options.get("config"), split=split, revision=revision, streaming=True
            ),
        )
        for field in (language_column, column):
            if rows.column_names is not None and field not in rows.column_names:
                raise NeuroglotError(f"hf:{name} has no column {field!r}; it has {', '.join(rows.column_names)}.")
        return Corpus({tag: Documents(_rows_in(rows, language_column, column, tag)) for tag in languages})

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


def _rows_in(rows: Any, language: str, text: str, tag: str) -> Callable[[], Iterator[str | None]]:
    """The texts of the rows whose language column says this language."""
    wanted = language_tag(tag)

    def is_wanted(cell: Any) -> bool:
        return isinstance(cell, str) and is_language(cell) and language_tag(cell) == wanted

    return lambda: (text_of(row[text], text, "a row of the dataset") for row in rows if is_wanted(row[language]))


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
        with quiet():
            return call()
    except Exception as error:  # the hub client, the network and dataset scripts each raise their own
        reason = str(error).strip().split("\n")[0]
        raise NeuroglotError(
            f"hf:{name} cannot be opened ({reason}); check its name and the network, or download it and give its path."
        ) from error
