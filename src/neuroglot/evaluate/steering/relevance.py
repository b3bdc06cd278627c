"""Whether answers are about their questions, 0 to 2, by a rule that needs no judge: the *likelihood rule*.

A question is put beside others of its set. The intact model, which sees no instruction and no intervention, says how
likely the answer is after each of them. An answer to the question is likeliest after the question itself, in whatever
language it is written, since the language and the fluency of the answer are the same beside every question.

What it cannot see is whether an answer is true or complete. It is as good as the model that reads; `limits` in the docs
has what it gets right on written examples.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from neuroglot.corpus.texts import texts_of
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import degenerate, nll_after
from neuroglot.generation.prompts import prompt_tokens, said_around
from neuroglot.languages.detection import letters
from neuroglot.languages.tags import closest
from neuroglot.models.architecture.body import has_encoder
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.storage.results import ResultCache, digest_of_settings

__all__ = ["LikelihoodRule", "distinct_questions", "echoes"]

SHORTEST = 8
"""Letters that an answer needs to be about anything."""
AT_ONCE = 256
"""Answers that are kept together."""


def echoes(answer: str, question: str, *, share: float = 0.6) -> bool:
    """Whether an answer says the question again: at least this share of its 4-grams of letters are the question's."""
    grams = _grams(answer)
    return bool(grams) and sum(gram in _grams(question) for gram in grams) >= share * len(grams)


def _grams(text: str) -> set[str]:
    plain = "".join(letter for letter in letters(text).lower() if letter.isalpha())
    return {plain[i : i + 4] for i in range(max(len(plain) - 3, 0))}


def distinct_questions(questions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The questions of a set that differ, by language: what the likelihood rule puts an answer beside.

    Raises:
        NeuroglotError: there are too few in a language.
    """
    found = {tag: list(dict.fromkeys(texts_of(texts, f"questions in {tag}"))) for tag, texts in questions.items()}
    for tag, texts in found.items():
        if len(texts) < 3:
            raise NeuroglotError(
                f"The likelihood rule puts a question beside others, and there are {len(texts)} in {tag}; give at "
                "least three, or let a judge say what is relevant."
            )
    return found


class LikelihoodRule:
    """Relevance by how likely the intact model finds an answer after its question, and after other questions.

    2 where no other question makes it likelier, 1 where at most a quarter of them do, else 0. An answer that has fewer
    than eight letters, repeats itself (`degenerate`) or says the question again (`echoes`) is 0. Fluent text about
    nothing gets a 2 in one of eight cases by chance, and a 1 in another.

    Args:
        model: reads the answers; outside `intervene`.
        questions: language → all questions of the set, in one order in every language; some may lack the last ones.
        others: beside how many other questions each is put: those that follow it in the set.
        chat: the questions are put into the model's chat template, as they were asked.
        directory: keep the scores here, and go on with what is there.

    Raises:
        NeuroglotError: a set has too few questions, or the model is an encoder with a decoder.
    """

    name = "likelihood rule"

    def __init__(
        self,
        model: Model,
        questions: Mapping[str, Sequence[str]],
        *,
        others: int = 7,
        chat: bool = False,
        directory: str | Path | None = None,
    ):
        if has_encoder(model.network):
            raise NeuroglotError(
                f"{model.name} reads a question in its encoder, and the likelihood rule reads question and answer as "
                "one text; let another model read."
            )
        self.model, self.chat, self.others = model, chat, others
        self.questions = distinct_questions(questions)
        self._cache = ResultCache(directory)

    def rate(self, answers: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
        """A table of answers with a column `relevance` more.

        Args:
            answers: with the columns source, target, prompt and answer, as `force` gives.
            progress: show a bar.

        Raises:
            NeuroglotError: a prompt is none of the questions.
        """
        asked = list(zip(answers["source"], answers["target"], answers["prompt"], answers["answer"], strict=True))
        distinct = list(dict.fromkeys(asked))
        found: dict[tuple[str, str, str, str], int] = {}
        with progress_bar("relevance", len(distinct), unit="answers", shown=progress) as advance:
            for first in range(0, len(distinct), AT_ONCE):
                some = distinct[first : first + AT_ONCE]
                found |= dict(zip(some, self._scores(some), strict=True))
                advance(len(some), "")
        return answers.assign(relevance=[found[row] for row in asked])

    def _scores(self, rows: Sequence[tuple[str, str, str, str]]) -> list[int]:
        beside = [self._beside(source, prompt) for source, _, prompt, _ in rows]
        about = [self.model.fingerprint, str(self.model.network.dtype), self.chat, [list(row) for row in rows], beside]
        about += said_around(self.model, self.chat).values()
        digest = digest_of_settings(["likelihood rule", 1, about])
        kept = self._cache.find(digest, lambda kept: len(kept.get("scores", ())) == len(rows))
        if kept is None:
            kept = self._cache.keep(digest, {"scores": self._measured(rows, beside)})
        return [int(score) for score in kept["scores"]]

    def _measured(self, rows: Sequence[tuple[str, str, str, str]], beside: Sequence[Sequence[str]]) -> list[int]:
        scores = [0] * len(rows)
        read = [i for i, row in enumerate(rows) if self._says_something(*row)]
        texts = list(dict.fromkeys(text for i in read for text in (rows[i][2], *beside[i])))
        before = dict(zip(texts, prompt_tokens(self.model, texts, self.chat), strict=True))
        answers = self.model.encode([rows[i][3].strip() for i in read])
        passes = [
            (before[text], ids) for i, ids in zip(read, answers, strict=True) for text in (rows[i][2], *beside[i])
        ]
        likely = iter(nll for nll, _ in nll_after(self.model, passes))
        for i in read:
            own = next(likely)
            likelier = sum(next(likely) <= own for _ in beside[i])
            scores[i] = 2 if not likelier else int(4 * likelier <= len(beside[i]))
        return scores

    def _says_something(self, source: str, target: str, prompt: str, answer: str) -> bool:
        """Whether an answer has words of its own, so that it can be about something."""
        if sum(letter.isalpha() for letter in letters(answer)) < SHORTEST or degenerate(answer):
            return False
        return not any(echoes(answer, said) for said in {prompt, self._meaning(source, target, prompt)})

    def _meaning(self, source: str, target: str, prompt: str) -> str:
        """The same question in the target language, if the set has it; else the question itself."""
        tag, near = self._of(source), closest(target, self.questions)
        place = self._place(tag, prompt)
        texts = [] if near is None else self.questions[near]
        return texts[place] if place < len(texts) else prompt

    def _beside(self, source: str, prompt: str) -> list[str]:
        """The questions that follow a question in its set; after the last comes the first."""
        tag = self._of(source)
        texts, place = self.questions[tag], self._place(tag, prompt)
        return [texts[(place + step) % len(texts)] for step in range(1, min(self.others, len(texts) - 1) + 1)]

    def _of(self, source: str) -> str:
        tag = closest(source, self.questions)
        if tag is None:
            raise NeuroglotError(f"There are no questions in {source}, only in {', '.join(self.questions)}.")
        return tag

    def _place(self, tag: str, prompt: str) -> int:
        try:
            return self.questions[tag].index(prompt)
        except ValueError as error:
            raise NeuroglotError(f"The prompt {prompt[:40]!r} is none of the questions in {tag}.") from error
