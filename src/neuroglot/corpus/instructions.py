"""Instructions and their answers by language, in the shapes that people publish them in."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from neuroglot.corpus.columns import column_named
from neuroglot.corpus.directories import files_by_language
from neuroglot.corpus.formats import json_rows
from neuroglot.corpus.local import LANGUAGE_COLUMNS
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import is_language, language_tag

__all__ = ["Pair", "load_instructions"]

BUILT_IN = "starter"


class Pair(NamedTuple):
    """What is asked, and the answer."""

    instruction: str
    answer: str


def load_instructions(source: str | Path, languages: Sequence[str] | None = None) -> dict[str, list[Pair]]:
    """Instruction data by language.

    Args:
        source: one of

            - `starter`: the built-in pairs, aligned: pair *i* asks and answers the same in every language;
            - a directory of `{language}.jsonl` files, one pair a line; they may be packed (`fr.jsonl.gz`);
            - a `.jsonl` file whose lines have a `language`, too; or, aligned, `{"key": …, "instruction": {language: …},
              "output": {language: …}}` a line;
            - `hf:NAME`, a dataset on the hub or a local dataset directory; `{language}` in the name stands for the tag,
              and then `languages` must be given.

            A pair is of the Alpaca shape (`instruction`, `input` if there is one, `output`) or the chat shape
            (`messages` of `role` and `content`, or `conversations` of `from` and `value`): the last answer, after all
            before it.
        languages: keep only these, in this order.

    Returns:
        language → pairs.

    Raises:
        NeuroglotError: nothing is there, or a line is neither shape; the sentence names the file and line.
    """
    name = str(source)
    if name == BUILT_IN:
        source = Path(str(files("neuroglot.corpus") / "starter" / "instructions.jsonl"))
    wanted = None if languages is None else [language_tag(tag) for tag in languages]
    if name.startswith("hf:"):
        found = _from_hub(name[3:], wanted)
    elif os.path.isdir(source):
        paths = files_by_language(Path(source), wanted, ["json"])
        found = {tag: [_pair(row, at) for at, row in _lines(path)] for tag, path in paths.items()}
    elif os.path.isfile(source):
        found = {}
        for at, row in _lines(Path(source)):
            for tag, pair in _tagged(row, at):
                found.setdefault(tag, []).append(pair)
    else:
        raise NeuroglotError(
            f"There is no instruction data at {source}; give a directory of {{language}}.jsonl files, a .jsonl file, "
            "hf:DATASET, or starter."
        )
    found = {tag: pairs for tag, pairs in found.items() if pairs}
    missing = [tag for tag in wanted or [] if tag not in found]
    if missing or not found:
        have = ", ".join(found) or "none"
        raise NeuroglotError(
            f"{name} has no instructions in {missing[0] if missing else 'any language'}; it has {have}."
        )
    return found if wanted is None else {tag: found[tag] for tag in wanted}


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place and object."""
    return ((f"{path}, line {number}", row) for number, row in json_rows(path))


def _tagged(row: Mapping[str, Any], at: str) -> Iterator[tuple[str, Pair]]:
    """The pairs of a line that says which language, or of an aligned line."""
    if isinstance(row.get("instruction"), dict):
        outputs = row.get("output")
        if not isinstance(outputs, dict):
            raise NeuroglotError(f"{at}: instruction is an object of languages, so output must be one, too.")
        for tag, instruction in row["instruction"].items():
            yield _tag(tag, at), _pair({"instruction": instruction, "output": outputs.get(tag)}, at)
        return
    tag = next((row[name] for kind in LANGUAGE_COLUMNS if (name := column_named(list(row), kind)) and row[name]), None)
    if tag is None:
        raise NeuroglotError(f"{at}: which language is not said; add `language`, or put it in a directory as fr.jsonl.")
    yield _tag(tag, at), _pair(row, at)


def _tag(tag: Any, at: str) -> str:
    if not isinstance(tag, str) or not is_language(tag):
        raise NeuroglotError(f"{at}: {tag!r} is not a language tag (BCP-47).")
    return language_tag(tag)


def _pair(row: Mapping[str, Any], at: str) -> Pair:
    """A pair of either shape."""
    turns = row.get("messages") or row.get("conversations")
    if turns:
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise NeuroglotError(f"{at}: a conversation is a list of objects of role and content.")
        said = [(turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")) for turn in turns]
        answers = [i for i, (who, _) in enumerate(said) if who in ("assistant", "gpt", "model")]
        if not answers or answers[-1] == 0 or not all(isinstance(text, str) for _, text in said):
            raise NeuroglotError(f"{at}: a conversation needs a question and an assistant's answer after it.")
        return Pair("\n\n".join(text for _, text in said[: answers[-1]]), said[answers[-1]][1])
    parts = [row.get("instruction"), row.get("input") or "", row.get("output") or row.get("response")]
    instruction, more, answer = (part if isinstance(part, str) else "" for part in parts)
    if not instruction.strip() or not answer.strip() or not isinstance(parts[1], str):
        raise NeuroglotError(f"{at}: neither instruction and output, nor messages of a user and an assistant.")
    return Pair(f"{instruction}\n\n{more}" if more else instruction, answer)


def _from_hub(name: str, wanted: list[str] | None) -> dict[str, list[Pair]]:
    """A dataset: one a language, or with a language column."""
    import datasets

    from neuroglot.corpus.hub import unreached
    from neuroglot.corpus.quiet import quiet

    def rows(source: str) -> Iterator[tuple[str, Any]]:
        try:
            with quiet():
                if Path(source).is_dir():
                    table = datasets.load_from_disk(source)
                    table = table["train"] if isinstance(table, datasets.DatasetDict) else table
                else:
                    table = datasets.load_dataset(source, split="train", streaming=True)
                yield from ((f"{source}, row {number}", row) for number, row in enumerate(table))
        except NeuroglotError:
            raise
        except Exception as error:  # datasets and the hub client raise their own
            raise unreached(source, error) from error

    if "{language}" in name:
        if wanted is None:
            raise NeuroglotError(f"{name} is one dataset a language; say which languages.")
        return {tag: [_pair(row, at) for at, row in rows(name.replace("{language}", tag))] for tag in wanted}
    found: dict[str, list[Pair]] = {}
    for at, row in rows(name):
        for tag, pair in _tagged(row, at):
            found.setdefault(tag, []).append(pair)
    return found
