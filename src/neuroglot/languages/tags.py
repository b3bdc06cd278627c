"""Language tags (BCP-47) and their names."""

import langcodes

from neuroglot.errors import NeuroglotError

__all__ = ["is_language", "language_name", "language_tag", "named"]


def is_language(text: str) -> bool:
    """Whether `text` is a valid language tag, such as `fr`, `zh-Hans` or `eng_Latn`."""
    return bool(langcodes.tag_is_valid(text))


def language_tag(text: str) -> str:
    """The standard form of a language tag: `eng_Latn` and `EN` are `en`, `zh_cn` is `zh-CN`.

    Raises:
        NeuroglotError: `text` is not a language tag.
    """
    if not is_language(text):
        raise NeuroglotError(f"{text!r} is not a language tag; use BCP-47 tags such as en, fr, zh or zh-Hant.")
    return str(langcodes.standardize_tag(text))


def language_name(tag: str) -> str:
    """The English name of a language: `bn` is `Bengali`."""
    return str(langcodes.Language.get(tag).display_name())


def direction(tag: str) -> str:
    """`rtl` where the language's script runs from right to left, `ltr` otherwise."""
    right_to_left = {"Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm"}
    return "rtl" if langcodes.Language.get(tag).maximize().script in right_to_left else "ltr"


def named(tag: str) -> str:
    """`French (fr)`."""
    return f"{language_name(tag)} ({tag})"
