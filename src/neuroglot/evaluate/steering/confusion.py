"""Language confusion: does an answer stay in its language, line by line and word by word (Marchisio et al. 2024)?"""

import logging
import string
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from neuroglot.corpus.columns import column_named, text_of
from neuroglot.corpus.files import text_lines
from neuroglot.corpus.formats import Rows, name_and_format
from neuroglot.corpus.texts import texts_of
from neuroglot.errors import NeuroglotError, require
from neuroglot.evaluate.steering.beginning import Beginning, Identify, beginning
from neuroglot.languages.fasttext import FastTextIdentifier
from neuroglot.languages.tags import language_tag
from neuroglot.stats import wilson

__all__ = [
    "WORD_LEVEL",
    "CompletionCheck",
    "Identify",
    "LanguageConfusion",
    "confusion_table",
    "english_words",
    "language_confusion",
    "read_completions",
]

WORD_LEVEL = ("ar", "hi", "ja", "ko", "ru", "zh")
"""The languages whose script lets an English word be seen; the word-level rates of others are not defined."""

SHORTEST = 5
"""Words that a line needs to be judged."""

_NO_PUNCTUATION = str.maketrans({**dict.fromkeys(string.punctuation, ""), "—": " ", "،": ""})


@dataclass(frozen=True)
class CompletionCheck:
    """How one completion fared.

    Attributes:
        lines: how many of its lines were long enough to be judged.
        wrong_lines: those of another language, as places among all lines of the text, from 0.
        first_wrong_word: the line's place, the word's place in it and the word: the first English word of a text whose
            lines all passed; None if there is none, or its language is not one of `WORD_LEVEL`.
        detected: what the wrong lines were identified as; None where the identifier was not sure.
        begins: where confusion begins, in the text as it was written; None if it passes or cannot be judged.
    """

    lines: int
    wrong_lines: tuple[int, ...]
    first_wrong_word: tuple[int, int, str] | None
    detected: tuple[str | None, ...]
    begins: Beginning | None = None

    @property
    def judged(self) -> bool:
        """Whether it has a line to judge."""
        return self.lines > 0

    @property
    def passes(self) -> bool:
        """Whether every line that was judged is in the wanted language, and no word is English."""
        return self.judged and not self.wrong_lines and self.first_wrong_word is None

    @property
    def line_accuracy(self) -> float:
        """The share of its judged lines in the wanted language; NaN without one."""
        return 1 - len(self.wrong_lines) / self.lines if self.lines else float("nan")


@dataclass(frozen=True)
class LanguageConfusion:
    """The rates of a group of completions that should be in one language.

    Attributes:
        language: the wanted one.
        checks: one a completion, in their order.
        completions: what was checked.
    """

    language: str
    checks: tuple[CompletionCheck, ...]
    completions: tuple[str, ...] = ()

    @property
    def judged(self) -> int:
        """Completions that have a line to judge; the others count nowhere."""
        return sum(check.judged for check in self.checks)

    @property
    def line_passes(self) -> int:
        """Completions whose judged lines are all in the wanted language."""
        return sum(check.judged and not check.wrong_lines for check in self.checks)

    @property
    def word_passes(self) -> int:
        """Of those, the completions without an English word."""
        return sum(check.passes for check in self.checks)

    @property
    def line_pass_rate(self) -> float:
        """LPR: line passes over judged. As the benchmark has it, 1 where nothing could be judged."""
        return self.line_passes / self.judged if self.judged else 1.0

    @property
    def word_pass_rate(self) -> float | None:
        """WPR: word passes over line passes, 1 where there are none; None for a language not in `WORD_LEVEL`."""
        if self.language not in WORD_LEVEL:
            return None
        return self.word_passes / self.line_passes if self.line_passes else 1.0

    @property
    def line_accuracy(self) -> float:
        """The mean over judged completions of the share of their lines in the wanted language; 1 if there are none."""
        shares = [check.line_accuracy for check in self.checks if check.judged]
        return sum(shares) / len(shares) if shares else 1.0

    def interval(self, rate: str = "line") -> tuple[float, float]:
        """Wilson's 95 % interval of the line or the word pass rate.

        Raises:
            NeuroglotError: another rate, or a word rate that is not defined for this language.
        """
        if rate not in ("line", "word"):
            raise NeuroglotError(f"An interval is of the line or the word pass rate, not of {rate!r}.")
        if rate == "word" and self.word_pass_rate is None:
            raise NeuroglotError(f"The word pass rate is defined for {', '.join(WORD_LEVEL)}, not for {self.language}.")
        passed, drawn = (self.line_passes, self.judged) if rate == "line" else (self.word_passes, self.line_passes)
        low, high = wilson(torch.tensor(passed), torch.tensor(drawn))
        return float(low), float(high)

    def frame(self) -> pd.DataFrame:
        """A row a completion: judged, line_pass, word_pass, line_accuracy, first_wrong_line, detected (its language),
        first_wrong_word; and where confusion begins: line, word (places from 0), character (in the text) and text.
        """
        return pd.DataFrame(
            [
                {
                    "judged": check.judged,
                    "line_pass": check.judged and not check.wrong_lines,
                    "word_pass": check.passes if self.word_pass_rate is not None else None,
                    "line_accuracy": check.line_accuracy,
                    "first_wrong_line": check.wrong_lines[0] if check.wrong_lines else None,
                    "detected": check.detected[0] if check.detected else None,
                    "first_wrong_word": check.first_wrong_word[2] if check.first_wrong_word else None,
                    **{name: getattr(check.begins, name, None) for name in ("line", "word", "character", "text")},
                }
                for check in self.checks
            ]
        )


def language_confusion(
    completions: Iterable[str],
    language: str,
    *,
    words: Collection[str] | None = None,
    identify: Identify | None = None,
) -> LanguageConfusion:
    """Line- and word-level confusion of completions that should be in one language (Marchisio et al. 2024, section 3).

    A completion is cut at a new question (`\\nQ:`) and stripped of ASCII punctuation. Its lines of at least five words
    are judged: it passes by line if all of them are identified as the language, and by word if, moreover, none of their
    words is an English word of the list. Words are told apart by blanks, in Chinese by jieba and in Japanese by MeCab.

    Args:
        completions: the answers.
        language: the wanted one; of a tag with a region or script the language counts.
        words: the English words; by default `english_words()`. Lower-case ones of more than three letters count.
        identify: tells the language of a line; fastText's, as the benchmark does, by default.

    Raises:
        NeuroglotError: a package that is needed is not installed.
    """
    completions = texts_of(completions, "completions")
    tag = language_tag(language).split("-")[0]
    identify = FastTextIdentifier() if identify is None else identify
    listed = _countable(english_words() if words is None else words) if tag in WORD_LEVEL else frozenset()
    checks = tuple(_check(text, tag, listed, identify) for text in completions)
    return LanguageConfusion(tag, checks, tuple(completions))


def _check(text: str, tag: str, words: frozenset[str], identify: Identify) -> CompletionCheck:
    cut = text.split("\nQ:")[0]
    lead = len(cut) - len(cut.lstrip())
    before = cut[:lead].count("\n")
    written = cut.strip().split("\n")
    lines = [line.translate(_NO_PUNCTUATION) for line in written]
    tokens = {place: _tokens(line, tag) for place, line in enumerate(lines)}
    judged = [place for place in tokens if len(tokens[place]) >= SHORTEST]
    found = {place: identify(lines[place]) for place in judged}
    wrong = [place for place in judged if found[place] != tag]
    word = None
    if not wrong:
        english = (
            (place + before, i, token.strip())
            for place in judged
            for i, token in enumerate(tokens[place])
            if token.strip() in words
        )
        word = next(english, None)
    begins = None
    if wrong or word is not None:
        place = wrong[0] if word is None else word[0] - before
        start = lead + sum(len(line) + 1 for line in written[:place])
        kept = [at for at, letter in enumerate(written[place]) for _ in letter.translate(_NO_PUNCTUATION)]
        begins = beginning(lines[place], tokens[place], tag, identify, known=None if word is None else word[1]).moved(
            place + before, start, kept
        )
    return CompletionCheck(
        len(judged), tuple(place + before for place in wrong), word, tuple(found[place] for place in wrong), begins
    )


def confusion_table(
    completions: pd.DataFrame, *, words: Collection[str] | None = None, identify: Identify | None = None
) -> pd.DataFrame:
    """The rates of a table of completions by source and language, and their means as the benchmark takes them.

    Args:
        completions: with the columns completion and language, and where there are any task, model and source.
        words: as for `language_confusion`.
        identify: likewise.

    Returns:
        A row a (task, model, source, language): completions, judged, line_pass_rate, its interval line_low and
        line_high, word_pass_rate, word_low, word_high (NaN where not defined), line_accuracy. Then for every task and
        model the mean over languages of each source, the mean over sources of each language (`all` in the other
        column), and `all` `all`, the mean over the languages' means. Means have no interval.

    Raises:
        NeuroglotError: a column is missing or a completion has no language.
    """
    missing = [name for name in ("completion", "language") if name not in completions]
    if missing:
        raise NeuroglotError(f"Completions need a column {missing[0]!r}; there are {', '.join(completions.columns)}.")
    if completions["language"].isna().any():
        row = int(completions["language"].isna().to_numpy().argmax())
        raise NeuroglotError(f"Completion {row} says no language that it should be in.")
    keys = ["task", "model", "source", "language"]
    table = completions.assign(**{key: "" for key in keys if key not in completions})
    table["completion"] = table["completion"].fillna("").astype(str)
    identify = FastTextIdentifier() if identify is None else identify
    rows = []
    for key, group in table.groupby(keys, sort=True, dropna=False):
        result = language_confusion(list(group["completion"]), str(key[3]), words=words, identify=identify)
        rows.append(dict(zip(keys, key, strict=True)) | _rates(result))
    measured = pd.DataFrame(rows)
    parts = []
    for (task, model), part in measured.groupby(["task", "model"], sort=False):
        named = {"task": str(task), "model": str(model)}
        of_source = _means(part, "source").assign(**named, language="all")
        of_language = _means(part, "language").assign(**named, source="all")
        overall = of_language[RATES].mean().to_frame().T.assign(**named, source="all", language="all")
        parts += [part, of_source, of_language, overall]
    columns = list(measured.columns)
    return pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True)


def read_completions(
    path: str | Path,
    language: str | None = None,
    *,
    text_column: str | None = None,
    language_column: str | None = None,
) -> pd.DataFrame:
    """A table of completions: .csv, .tsv, .jsonl, .json or .parquet, also compressed, by the rules of a corpus.

    Args:
        path: the file. A column `answer`, `response` or `text` is read as `completion`, and `target` or `lang` as
            `language`, capitals and outer blanks aside.
        language: of all of them, in place of the column.
        text_column: the column of the completions, in place of these names.
        language_column: that of their languages, likewise.

    Raises:
        NeuroglotError: it cannot be read, lacks the text or the language, or holds numbers where text should be.
    """
    path = Path(path)
    _, form = name_and_format(path)
    if form is None or form == "text":
        raise NeuroglotError(f"{path} is no table of completions; give a .csv, .tsv, .jsonl or .parquet file.")
    rows = Rows(path, form)
    names = list(rows.columns)
    called = {
        "completion": ("completion", "answer", "response", "text") if text_column is None else (text_column,),
        "language": ("language", "target", "lang") if language_column is None else (language_column,),
    }
    found = {
        name: next((column for word in words if (column := column_named(names, word)) is not None), None)
        for name, words in called.items()
    }
    for name, column in found.items():
        if column is None and (name == "completion" or language is None):
            hint = " or say --language" if name == "language" else ""
            raise NeuroglotError(f"{path} has no column {called[name][0]!r}; it has {', '.join(names)}: add it{hint}.")
    texts = {names.index(column) for column in found.values() if column is not None}
    read = [
        [text_of(cell, names[i], rows.place(number)) if i in texts else cell for i, cell in enumerate(cells)]
        for number, cells in rows(names)
    ]
    if not read:
        raise NeuroglotError(f"{path} holds no completions.")
    table = pd.DataFrame(read, columns=names)
    table = table.drop(columns=[name for name, column in found.items() if column not in (None, name) and name in names])
    table = table.rename(columns={column: name for name, column in found.items()})
    return table if language is None else table.assign(language=language)


RATES = ["line_pass_rate", "word_pass_rate", "line_accuracy"]


def _rates(result: LanguageConfusion) -> dict[str, Any]:
    low, high = result.interval("line")
    defined = result.word_pass_rate is not None
    word_low, word_high = result.interval("word") if defined else (float("nan"), float("nan"))
    return {
        "completions": len(result.checks),
        "judged": result.judged,
        "line_pass_rate": result.line_pass_rate,
        "line_low": low,
        "line_high": high,
        "word_pass_rate": result.word_pass_rate if defined else float("nan"),
        "word_low": word_low,
        "word_high": word_high,
        "line_accuracy": result.line_accuracy,
    }


def _means(table: pd.DataFrame, by: str) -> pd.DataFrame:
    return table.groupby(by, sort=False)[RATES].mean().reset_index()


def english_words(path: str | Path | None = None) -> frozenset[str]:
    """The words that count as English in a text of another script: lower-case, more than three letters.

    Args:
        path: a list, one word a line. The benchmark's own is linked from its repository; to compare with its published
            rates, download it and give it here. By default the list of the package `english-words` is read.

    Raises:
        NeuroglotError: the file cannot be read, or the package is not installed.
    """
    if path is None:
        return _packaged_words()
    return _countable(line for _, line in text_lines(Path(path)))


@cache
def _packaged_words() -> frozenset[str]:
    package = require("english_words", "confusion", needed_by="The word pass rate")
    return _countable(package.get_english_words_set(["web2", "gcide"]))


def _countable(words: Iterable[str]) -> frozenset[str]:
    stripped = (word.strip() for word in words)
    return frozenset(word for word in stripped if word.islower() and len(word) > 3)


def _tokens(line: str, tag: str) -> list[str]:
    if tag == "zh":
        return list(_jieba().cut(line))
    if tag == "ja":
        return str(_mecab().parse(line)).split()
    return line.split()


@cache
def _jieba() -> Any:
    jieba = require("jieba", "confusion", needed_by="Telling Chinese words apart")
    jieba.setLogLevel(logging.WARNING)  # it says on standard error that it builds its dictionary
    jieba.initialize()
    return jieba


@cache
def _mecab() -> Any:
    require("unidic_lite", "confusion", needed_by="Telling Japanese words apart")
    fugashi = require("fugashi", "confusion", needed_by="Telling Japanese words apart")
    return fugashi.Tagger("-O wakati -b 50000")
