"""Content quality, 1 to 10, or relevance, 0 to 2, by a language model: behind an OpenAI-compatible endpoint, or here.

Tang et al. (2024, §3.1) have GPT-4 score answers as Zheng et al. (2023) do. The question put here is our own wording of
that; scores of other wordings, and of other judges, are not comparable with these. The same holds for relevance, which
CLaS-Bench (2026) has a judge say whatever the language of the answer.
"""

import math
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd
from pydantic import BaseModel, Field, SecretStr

from neuroglot.errors import NeuroglotError, NeuroglotWarning, require
from neuroglot.languages.tags import language_name
from neuroglot.progress import progress_bar
from neuroglot.storage.results import ResultCache, digest_of_settings

__all__ = ["RUBRICS", "Judge", "JudgeSettings", "is_empty", "one_score"]

QUESTION = """\
You grade an answer that an assistant gave to a user.

The user wrote:
<<<
{prompt}
>>>

The assistant answered:
<<<
{answer}
>>>

The answer should be in {language}. Consider how helpful, relevant, accurate, deep and detailed it is. An answer that \
is cut off at the end is not worse for that. An answer that repeats itself, makes no sense or is in the wrong language \
is poor. Reply with one line and nothing else: the word Rating, a colon, and a whole number from 1 (worthless) to 10 \
(excellent), such as
Rating: 5"""

RELEVANCE = """\
You grade an answer for its content only.

The user wrote:
<<<
{prompt}
>>>

The answer was:
<<<
{answer}
>>>

In which language it is written, and whether that is the right one, must not count. Grade it so:
0: it has nothing to do with what the user wrote, or makes no sense, or only repeats itself.
1: it has something to do with it, but misses the point, is of little use or is partly nonsense.
2: it makes sense and clearly answers what the user wrote. Being cut off at the end does not count against it.
Reply with one line and nothing else: the word Rating, a colon, and 0, 1 or 2, such as
Rating: 1"""

_RATING = re.compile(r"rating\W{0,6}(\d++(?:\.\d++)?+)(?:\s*/\s*(\d+))?", re.IGNORECASE)
_NO_RATING = re.compile(r"rating\W{0,5}[:=]\s*[-−]\d|rating\W{0,6}\d[\d.]*\s*(?:[-−–—~]|to|or)\s*\d", re.IGNORECASE)
"""A number below zero, or two of which the judge takes neither."""
_NUMBER = re.compile(r"[\s\[(*]*(\d+(?:\.\d+)?)(?:\s*/\s*(\d+))?[\s\])*.]*")

MANY = 10
"""Answers, of which a judge that tells anything apart scores one differently."""

LOCAL = "local"
"""In place of an endpoint: the model is opened in this process."""


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked.

    Attributes:
        column: what its scores are called in a table of answers.
        question: with {prompt}, {answer} and maybe {language}.
        lowest: the least score, and that of an empty answer.
        highest: the best.
    """

    column: str
    question: str
    lowest: float
    highest: float


RUBRICS = {"quality": Rubric("score", QUESTION, 1, 10), "relevance": Rubric("relevance", RELEVANCE, 0, 2)}


class JudgeSettings(BaseModel):
    """Which judge, and how it is asked."""

    model: str
    """The model's name at the endpoint."""
    base_url: str | None = None
    """The endpoint, such as http://localhost:8000/v1; by default OPENAI_BASE_URL, or OpenAI's own. `local`: `model` is
    opened in this process, as `load_model` takes it, and asked in its chat template."""
    api_key: SecretStr | None = Field(None, exclude=True)
    """By default OPENAI_API_KEY. It is never written anywhere."""
    rubric: Literal["quality", "relevance"] = "quality"
    """What is graded: the answer as a whole from 1 to 10, or from 0 to 2 whether it is about the question."""
    reading: Literal["reply", "expected"] = "reply"
    """The score is the rating in the reply; or, of a model of this process, the mean of all ratings, each weighted by
    how likely the model finds it (Liu et al. 2023, G-Eval): a small model may reply the same to everything."""
    per_minute: float = Field(60, gt=0)
    """At most so many requests a minute."""
    retries: int = Field(4, ge=0)
    """How often a request that failed (no connection, too many requests, server error) is made again, more slowly."""
    timeout: float = Field(120, gt=0)
    """Seconds to wait for an answer."""
    max_tokens: int = Field(16, ge=1)
    """Of the judge's answer."""


class Asked(Protocol):
    """Who replies to a judge's questions."""

    where: str
    """What tells it from others: the endpoint's address, or what the model of this process is."""

    def replies(self, questions: Sequence[str]) -> Iterator[str]:
        """A reply to each question, in order."""
        ...

    def likelihoods(self, questions: Sequence[str]) -> Iterator[list[float]]:
        """How likely each rating is, from the lowest, of each question, in order; they sum to 1."""
        ...


class Judge:
    """Asks a model how good an answer is, never twice the same.

    Args:
        settings: which model, where.
        directory: keep every score here, under a digest of the model, the endpoint and the whole question; a score that
            is there costs nothing. Questions and answers are kept beside it; the key is not.

    Raises:
        NeuroglotError: the openai client is not installed, there is no key for OpenAI's own endpoint, the model of
            this process cannot be opened, or likelihoods are asked of an endpoint.
    """

    def __init__(self, settings: JudgeSettings, directory: str | Path | None = None):
        self.settings = settings
        self.rubric = RUBRICS[settings.rubric]
        self.name = f"{settings.model} as judge"
        self._cache = ResultCache(directory)
        self._asked: Asked
        if settings.reading == "expected" and settings.base_url != LOCAL:
            raise NeuroglotError(
                "An endpoint does not say how likely each rating is, as `expected` needs; have the judge opened "
                "here (--judge-url local), or read its reply."
            )
        if settings.base_url == LOCAL:
            from neuroglot.evaluate.steering.local_judge import LocalModel

            ratings = [f"Rating: {rating}" for rating in range(int(self.rubric.lowest), int(self.rubric.highest) + 1)]
            self._asked = LocalModel(
                settings.model, settings.max_tokens, ratings, lambda said: self._rating(said) is not None
            )
        else:
            self._asked = Endpoint(settings)
        self.url = self._asked.where

    def score(self, prompt: str, answer: str, language: str) -> float:
        """How good an answer is, by the rubric. An empty answer has the least score, and nobody is asked.

        Args:
            prompt: what was asked.
            answer: what was answered.
            language: the one it should be in.

        Raises:
            NeuroglotError: the endpoint cannot be reached, fails, or says something that cannot be read as a rating.
        """
        return next(self._scores([(prompt, answer, language)]))

    def rate(self, answers: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
        """A table of answers with a column more, `score` or by the other rubric `relevance`.

        `matrix(table, condition, "score")` is the LAPE paper's table.

        Args:
            answers: with the columns prompt, answer and target, as `force` gives.
            progress: show a bar.

        Raises:
            NeuroglotError: as `score`; what was scored before is kept in the directory.
        """
        rows = [(str(row.prompt), str(row.answer), str(row.target)) for row in answers.itertuples()]
        scores = []
        with progress_bar("judged", len(rows), unit="answers", shown=progress) as advance:
            for (_, _, target), score in zip(rows, self._scores(rows), strict=True):
                scores.append(score)
                advance(1, f"→ {target}")
        rated = answers.assign(**{self.rubric.column: scores})
        if (alike := one_score(rated, self.rubric.column)) is not None and len(rated) >= MANY:
            warnings.warn(
                f"{self.name} gave every answer that it read one score, {alike:g}, so it does not tell them apart; "
                "take a better judge, or of a model in this process its mean rating (--judge-reading expected).",
                NeuroglotWarning,
                stacklevel=2,
            )
        return rated

    def _scores(self, rows: Sequence[tuple[str, str, str]]) -> Iterator[float]:
        """The score of each prompt, answer and language, in order."""
        questions = [self._question(*row) for row in rows]
        missing = [text for text in dict.fromkeys(questions) if text is not None and self._kept(text) is None]
        asked = self._asked.replies if self.settings.reading == "reply" else self._asked.likelihoods
        replies: Iterator[tuple[str, Any]] = zip(missing, asked(missing), strict=True)
        for text in questions:
            if text is None:
                yield float(self.rubric.lowest)
                continue
            while (kept := self._kept(text)) is None:
                question, said = next(replies)
                self._cache.keep(self._digest(question), self._read(question, said))
            yield float(kept["score"])

    def _question(self, prompt: str, answer: str, language: str) -> str | None:
        if not answer.strip():
            return None
        return self.rubric.question.format(prompt=prompt, answer=answer, language=language_name(language))

    def _digest(self, question: str) -> str:
        asked = [self.settings.model, self.url, question]
        return digest_of_settings(asked if self.settings.reading == "reply" else [*asked, self.settings.reading])

    def _kept(self, question: str) -> dict[str, Any] | None:
        return self._cache.find(self._digest(question), lambda kept: isinstance(kept.get("score"), int | float))

    def _rating(self, said: str) -> float | None:
        return read_rating(said, self.rubric.lowest, self.rubric.highest)

    def _read(self, question: str, said: str | list[float]) -> dict[str, Any]:
        """What is kept of a reply, or of the likelihoods of all ratings."""
        if not isinstance(said, str):
            mean = sum(share * (self.rubric.lowest + place) for place, share in enumerate(said))
            return {"model": self.settings.model, "question": question, "likelihoods": said, "score": mean}
        score = self._rating(said)
        if score is None:
            lowest, highest, shown = self.rubric.lowest, self.rubric.highest, " ".join(said.split())[:120]
            raise NeuroglotError(
                f"The judge {self.settings.model} gave no rating from {lowest:g} to {highest:g} but {shown!r}; take a "
                "model that follows instructions. Scores so far are kept."
            )
        return {"model": self.settings.model, "question": question, "said": said, "score": score}


def is_empty(answers: pd.DataFrame) -> "pd.Series[bool]":
    """Which answers say nothing, so that no judge reads them."""
    return answers["answer"].astype(str).str.strip() == ""


def one_score(answers: pd.DataFrame, column: str) -> float | None:
    """The score that a judge gave every answer it read, if it is one: then nothing follows from it.

    Empty answers are not read. They have the least score without being asked about.

    Args:
        answers: as `Judge.rate` gives.
        column: the scores.
    """
    found = answers.loc[~is_empty(answers), column].unique()
    return float(found[0]) if len(found) == 1 else None


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, asked one question after the other.

    Args:
        settings: which model, where, and how often.

    Raises:
        NeuroglotError: the openai client is not installed, or there is no key for OpenAI's own endpoint.
    """

    def __init__(self, settings: JudgeSettings):
        openai = require("openai", "judge", needed_by="A judge")
        self.settings = settings
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        key = settings.api_key.get_secret_value() if settings.api_key else os.environ.get("OPENAI_API_KEY")
        if not key and url is None:
            raise NeuroglotError(
                "The judge needs a key: set OPENAI_API_KEY, or give the address of an endpoint that needs none "
                "(base_url, or OPENAI_BASE_URL)."
            )
        self.where = url or "https://api.openai.com/v1"
        self._errors = (openai.OpenAIError, ValueError, AttributeError, TypeError, IndexError)
        self._unreachable, self._too_many = openai.APIConnectionError, openai.RateLimitError
        self._client = openai.OpenAI(
            base_url=url, api_key=key or "none", max_retries=settings.retries, timeout=settings.timeout
        )
        self._next = 0.0

    def replies(self, questions: Sequence[str]) -> Iterator[str]:
        """A reply to each question, in order, each when it is asked for."""
        return map(self._ask, questions)

    def likelihoods(self, questions: Sequence[str]) -> Iterator[list[float]]:
        """An endpoint does not say them: `Judge` refuses to ask."""
        raise NotImplementedError

    def _ask(self, question: str) -> str:
        self._wait()
        try:
            reply: Any = self._client.chat.completions.create(
                model=self.settings.model,
                messages=[{"role": "user", "content": question}],
                temperature=0.0,
                max_tokens=self.settings.max_tokens,
            )
            return _content(reply)
        except self._too_many as error:
            raise NeuroglotError(
                f"The judge at {self.where} takes no more requests for now ({_reason(error)}); ask it again later, or "
                "more slowly (--judge-per-minute). Scores so far are kept."
            ) from error
        except self._unreachable as error:
            raise NeuroglotError(
                f"The judge at {self.where} cannot be reached ({_reason(error)}); check the address and that it is "
                "running. Scores so far are kept."
            ) from error
        except self._errors as error:
            raise NeuroglotError(
                f"The judge at {self.where} did not answer as an OpenAI-compatible endpoint does ({_reason(error)}); "
                "check the address, the key and the model's name. Scores so far are kept."
            ) from error

    def _wait(self, now: Callable[[], float] = time.monotonic) -> None:
        """Keep to the rate."""
        time.sleep(max(0.0, self._next - now()))
        self._next = now() + 60 / self.settings.per_minute


def _content(reply: Any) -> str:
    """The text of a completion; some endpoints give it in parts.

    Raises:
        ValueError: it is no completion, or holds no text.
    """
    try:
        content = reply.choices[0].message.content
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type", "text") == "text")
    except (AttributeError, TypeError, IndexError, KeyError) as error:
        raise ValueError("what it sent is no chat completion") from error
    if not isinstance(content, str | None):
        raise ValueError(f"its reply is not text but {content!r:.40}")
    return (content or "").encode(errors="replace").decode()  # half a character cannot be kept


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def read_rating(said: str, lowest: float = 1, highest: float = 10) -> float | None:
    """The rating in a judge's answer; None if there is none between the two, two that differ, or one out of more."""
    ratings = set(_RATING.findall(said))
    if not ratings and (alone := _NUMBER.fullmatch(said)):
        ratings = {alone.groups()}
    if _NO_RATING.search(said) or any(out_of and float(out_of) != highest for _, out_of in ratings):
        return None
    found = {float(number) for number, _ in ratings}
    value = found.pop() if len(found) == 1 else math.nan
    return value if lowest <= value <= highest else None
