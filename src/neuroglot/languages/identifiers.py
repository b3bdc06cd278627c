"""Identifiers of an answer's language, each by its name, so that figures of one are never read as another's."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from neuroglot.errors import NeuroglotError
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.fasttext import FastTextIdentifier

__all__ = ["IDENTIFICATIONS", "Identification", "Identifier", "identifier"]

Identifier = Callable[[str], str | None]
"""Text in, language out; None where it cannot be told."""

Identification = Literal["lingua", "fasttext"]
IDENTIFICATIONS: tuple[Identification, ...] = get_args(Identification)
"""By script, then lingua's n-grams (`LanguageIdentifier`); fastText's likeliest of 176 languages, however unsure
(`FastTextIdentifier`), as CLaS-Bench counts it."""


def identifier(name: Identification, languages: Sequence[str]) -> Identifier:
    """The identifier of a name.

    Args:
        name: see `IDENTIFICATIONS`.
        languages: those that matter; fastText always chooses among all of its own.

    Raises:
        NeuroglotError: there is none of that name, its library is not installed, or it cannot tell a language.
    """
    if name == "lingua":
        return LanguageIdentifier(languages)
    if name == "fasttext":
        return FastTextIdentifier(confidence=0.0)
    raise NeuroglotError(f"Languages are identified by {' or '.join(IDENTIFICATIONS)}, not by {name!r}.")
