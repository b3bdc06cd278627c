"""Texts as a script gives them: a list of one or many, and never the letters of one."""

from collections.abc import Iterable, Mapping
from typing import Any

from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag

__all__ = ["check_texts", "prompts_by_language", "refuse_halves", "text_or_none", "texts_of"]


def check_texts(given: Any, what: str) -> None:
    """Refuse one text where several are asked for: each of its letters would be one.

    Raises:
        NeuroglotError: as said, or it is nothing that holds texts.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        shown = repr(given[:30]) if isinstance(given, str | bytes) else f"a {type(given).__name__}"
        raise NeuroglotError(f"{what} takes a list of texts, not {shown}; put one text into a list.")


def texts_of(given: Iterable[str], what: str) -> list[str]:
    """The texts of a list, an array or a generator.

    Args:
        given: the texts.
        what: they are, the beginning of the sentence.

    Raises:
        NeuroglotError: it is one text, or one of them is no text.
    """
    check_texts(given, what)
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise NeuroglotError(f"{what} takes texts, and number {place} (from 0) is {text!r:.40}; leave it out.")
        refuse_halves(text, f"{what}: number {place} (from 0)")
    return [str(text) for text in texts]


def refuse_halves(text: str, what: str) -> None:
    """Refuse half a surrogate pair: no file can hold it, and no tokenizer reads it.

    Args:
        text: any.
        what: it is, the beginning of the sentence.

    Raises:
        NeuroglotError: as said.
    """
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as bad:
        raise NeuroglotError(
            f"{what} holds half a surrogate pair ({bad.object[bad.start]!r}), which is no text; mend it."
        ) from bad


def text_or_none(text: Any) -> str | None:
    """A text, or None for an empty cell (None, or NaN as pandas has it).

    Raises:
        NeuroglotError: it is something else.
    """
    if text is None or text != text:
        return None
    if not isinstance(text, str):
        raise NeuroglotError(f"A document is text, and not {text!r:.40}; make it one, or leave it out.")
    refuse_halves(text, "A document")
    return text


def prompts_by_language(prompts: Mapping[str, Iterable[str]], what: str = "prompts") -> dict[str, list[str]]:
    """The prompts under the standard form of their language's tag.

    Raises:
        NeuroglotError: they are under no language, or a language has one text in place of a list.
    """
    if not isinstance(prompts, Mapping):
        raise NeuroglotError(f'{what} are by language, such as {{"fr": ["…"]}}, not a {type(prompts).__name__}.')
    return {language_tag(tag): texts_of(texts, f"{what} in {tag}") for tag, texts in prompts.items()}
