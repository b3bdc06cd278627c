"""Language tags (BCP-47) and their names."""

from collections.abc import Iterable
from functools import lru_cache

import langcodes
from langcodes import Language

from neuroglot.errors import NeuroglotError

__all__ = ["closest", "is_language", "is_plain_language", "language_name", "language_tag", "named"]

NO_LANGUAGE = {"und", "zxx", "mul", "mis", "root"}
"""Tags that say that a language is unknown, absent, or more than one."""

# What langcodes does not say of macrolanguages: two that Wikipedia and FLORES keep beside theirs, three that it lacks.
_APART = {"twi": "tw", "tw": "tw", "pnb": "pnb"}
_MEMBERS = {"pbt": "ps", "fuv": "ff", "quy": "qu"}

_ORDINARY = {"bar", "bin", "bug", "fit", "man", "new", "src"}
"""Codes of written languages that are ordinary names of files and columns, too."""


def is_language(text: str) -> bool:
    """Whether `text` is a valid tag of one language, such as `fr`, `zh-Hans` or `eng_Latn`."""
    if not isinstance(text, str):
        return False
    text = text.strip()
    return text.isascii() and text.casefold() not in NO_LANGUAGE and bool(langcodes.tag_is_valid(text))


def is_plain_language(name: str) -> bool:
    """Whether a file or a column of this name is a language's, when nothing but its name says so.

    Nearly every word of three letters is the code of some language (`log`, `raw`, `url`). So a code of three letters
    alone needs a shorter one (`fra`), or speakers who write it by CLDR (`ceb`) and no other use (`new`). A script or a
    region makes any tag plain: `new_Deva`.
    """
    if not is_language(name):
        return False
    tag, name = language_tag(name), name.strip().casefold()
    if len(name) != 3:
        return True
    return name not in _ORDINARY and (len(tag) < 3 or Language.get(tag).writing_population() > 0)


def language_tag(text: str) -> str:
    """The standard form of a language tag: `eng_Latn` and `EN` are `en`, `arb_Arab` is `ar`, `zh_cn` is `zh-CN`.

    A language that stands for its macrolanguage takes that one's tag, as CLDR has it. A script is dropped if it is the
    one that the language is written in where nothing is said. Regions stay.

    Sets of neurons may be of `mul`, several languages, or `und`; text may not.

    Raises:
        NeuroglotError: `text` is not a language tag.
    """
    if not is_language(text) and not (isinstance(text, str) and text in NO_LANGUAGE):
        raise NeuroglotError(f"{text!r} is not a language tag; use BCP-47 tags such as en, fr, zh or zh-Hant.")
    return _standard(text.strip())


@lru_cache(maxsize=1 << 14)
def _standard(text: str) -> str:
    if text in NO_LANGUAGE:
        return text
    first, *rest = text.replace("_", "-").split("-")
    apart = _APART.get(first.casefold())
    first = _MEMBERS.get(first.casefold(), first)
    tag = Language.get(langcodes.standardize_tag("-".join([first, *rest]), macro=apart is None))
    if apart is not None:
        tag = Language.make(language=apart, script=tag.script, territory=tag.territory)
    bare = Language.make(
        language=tag.language,
        extlangs=tag.extlangs,
        territory=tag.territory,
        variants=tag.variants,
        extensions=tag.extensions,
        private=tag.private,
    )
    # Hangul alone and Hangul with Han are both what Korean is written in.
    script = {"Hang": "Kore"}.get(tag.script, tag.script)
    return str((bare if script == bare.maximize().script else tag).to_tag())


def closest(tag: str, among: Iterable[str]) -> str | None:
    """The one of these tags that names the same language, as regions and scripts may differ: `zh` is `zh-CN`'s.

    The tag itself comes first, then the one nearest by CLDR. None if there is none: other languages are never near.
    """
    same = [other for other in among if _language(other) == _language(tag)]
    return min(same, key=lambda other: (other != tag, langcodes.tag_distance(tag, other)), default=None)


def _language(tag: str) -> str:
    """The language alone; Bokmål is what is written where Norwegian is said."""
    language = str(Language.get(language_tag(tag)).language)
    return {"nb": "no"}.get(language, language)


def language_name(tag: str) -> str:
    """The English name of a language: `bn` is `Bengali`."""
    return str(Language.get(tag).display_name())


def direction(tag: str) -> str:
    """`rtl` where the language's script runs from right to left, `ltr` otherwise."""
    right_to_left = {"Arab", "Hebr", "Thaa", "Syrc", "Nkoo", "Adlm"}
    return "rtl" if Language.get(tag).maximize().script in right_to_left else "ltr"


def named(tag: str) -> str:
    """`French (fr)`."""
    return f"{language_name(tag)} ({tag})"
