"""The sentence that asks for an answer in a language, in every language."""

import json
from functools import cache
from importlib.resources import files

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest

__all__ = ["answer_in", "asking"]


@cache
def _sentences() -> dict[str, dict[str, str]]:
    text = (files("neuroglot.corpus") / "starter" / "answer_in.json").read_text(encoding="utf-8")
    sentences: dict[str, dict[str, str]] = json.loads(text)
    return sentences


def answer_in(target: str, *, said_in: str) -> str:
    """«Answer in French.», said in a language.

    Raises:
        NeuroglotError: it is not built in for one of the two.
    """
    sentences = _sentences()
    found = {tag: closest(tag, sentences) for tag in (target, said_in)}
    if missing := [tag for tag, near in found.items() if near is None]:
        raise NeuroglotError(f"There is no «answer in» for {missing[0]}, only for {', '.join(sentences)}.")
    return sentences[str(found[said_in])][str(found[target])]


def asking(prompts: Corpus, target: str) -> Corpus:
    """The prompts, each followed by the sentence in its own language that asks for an answer in the target's."""

    def with_request(tag: str) -> list[str | None]:
        space = "" if closest(tag, ("zh", "ja")) else " "
        request = answer_in(target, said_in=tag)
        return [None if text is None else f"{text}{space}{request}" for text in prompts[tag].aligned()]

    texts = {tag: with_request(tag) for tag in prompts.languages}
    return Corpus(texts, parallel=prompts.parallel, keys=prompts.keys, name=f"{prompts.name}, in {target}")
