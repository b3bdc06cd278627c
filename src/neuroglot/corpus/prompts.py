"""The sentence that asks for an answer in a language: in English, in that language, or in the prompt's own."""

import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Literal

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest, language_name

__all__ = ["PROMPTINGS", "Prompting", "answer_in", "asking", "prompted"]

Prompting = Literal["none", "I", "II"]
PROMPTINGS: tuple[Prompting, ...] = ("none", "I", "II")
"""Nothing is asked for; «answer in X» in English; «answer in X» in X."""

_ENDS = frozenset("།༎।॥።؟۔;")
"""Marks that end a sentence and are no plain punctuation to Unicode, or end one only in some scripts."""


@cache
def _sentences() -> dict[str, dict[str, str]]:
    text = (files("neuroglot.corpus") / "starter" / "answer_in.json").read_text(encoding="utf-8")
    sentences: dict[str, dict[str, str]] = json.loads(text)
    return sentences


def answer_in(target: str, *, said_in: str) -> str:
    """«Answer in French.», said in a language.

    In English any language can be asked for, in itself each that is built in, and in one another some.

    Raises:
        NeuroglotError: it is not built in for the two.
    """
    sentences = _sentences()
    if closest(said_in, ["en"]):
        return f"Answer in {language_name(closest(target, sentences) or target)}."
    speaker = closest(said_in, sentences)
    if speaker is None:
        raise NeuroglotError(f"There is no «answer in» said in {said_in}, only in {', '.join(sentences)}.")
    found = closest(target, sentences[speaker])
    if found is None:
        raise NeuroglotError(
            f"There is no «answer in» for {target} said in {said_in}, only for {', '.join(sentences[speaker])}."
        )
    return sentences[speaker][found]


def prompted(texts: Sequence[str], source: str, target: str, prompting: Prompting, *, chat: bool = False) -> list[str]:
    """Prompts that ask for an answer in the target language.

    The sentence follows the prompt. To a model that continues text, a prompt that ends within a sentence is a
    beginning, which another sentence would end: there it stands before, in a paragraph of its own.

    Args:
        texts: prompts.
        source: the language they are in.
        target: the one wanted.
        prompting: `none`, `I` (said in English) or `II` (said in the target language).
        chat: whether they are put into a chat template, where every prompt is said to its end.

    Raises:
        NeuroglotError: the sentence is not built in.
    """
    if prompting == "none":
        return list(texts)
    said_in = "en" if prompting == "I" else target
    request = answer_in(target, said_in=said_in)
    return [_with(text, source, request, said_in, chat) for text in texts]


def asking(prompts: Corpus, target: str, *, chat: bool = True) -> Corpus:
    """The prompts, each with the sentence in its own language that asks for an answer in the target's; see `prompted`.

    Raises:
        NeuroglotError: the sentence is not built in.
    """

    def with_request(tag: str) -> list[str | None]:
        request = answer_in(target, said_in=tag)
        return [None if text is None else _with(text, tag, request, tag, chat) for text in prompts[tag].aligned()]

    texts = {tag: with_request(tag) for tag in prompts.languages}
    return Corpus(texts, parallel=prompts.parallel, keys=prompts.keys, name=f"{prompts.name}, in {target}")


def _with(text: str, source: str, request: str, said_in: str, chat: bool) -> str:
    if not chat and not _ended(text):
        return f"{request}\n\n{text}"
    unspaced = all(closest(tag, ("zh", "ja")) for tag in (source, said_in))
    return f"{text}{'' if unspaced else ' '}{request}"


def _ended(text: str) -> bool:
    """Whether the last letter of a text is followed by a mark that ends a sentence."""
    for letter in reversed(text.rstrip()):
        if letter in _ENDS or unicodedata.normalize("NFKC", letter)[0] in ".!?。":
            return True
        if unicodedata.category(letter)[0] not in "PZ":
            return False
    return False
