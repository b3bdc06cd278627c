"""Words of another language inside an answer, in the script that both are written in."""

import re

from neuroglot.languages.detection import LanguageIdentifier, letters

__all__ = ["foreign_words", "mixed_words"]

SENTENCE = 6
"""Words that a sentence needs to be told from one of another language in the same script."""

DOUBT = 0.05
"""The identifier's confidence that a sentence is in the wanted language, below which it is not."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_QUOTED = re.compile(r"«[^«»\n]*»|“[^“”\n]*”|„[^„“”\n]*[“”]|\"[^\"\n]*\"|‘[^‘’\n]*’(?!\w)|‹[^‹›\n]*›")
_SENTENCE = re.compile(r"[.!?:;…\n]+")

_ENGLISH = frozenset(
    """
    the and that this these those with without from which would could should been being they were their them there
    because about through though although however therefore while where when who whose why how your yours you our ours
    his its it's don't doesn't didn't isn't aren't wasn't can't couldn't won't wouldn't shouldn't i'm you're they're
    we're that's there's let's very really quite just only always never often sometimes usually maybe perhaps already
    too much many few little great new people thing things something anything everything nothing someone anyone everyone
    world years days work life know think want need likes make makes making getting gives given taking keep feel feels
    find found looking using helps helping try trying started learn learning understand remember believe says asked
    giving goes going went comes coming playing reading write writing speak speaking eat eating drinking sleep sleeping
    buy buying beautiful happy easy easily different another each every both between before after since until during
    within towards around above below friend friends family child children school language words answer first
    third next today tomorrow yesterday actually simply together enough almost ever than into onto upon had not nor
    either neither whether shall must might of it she also have
    """.split()  # noqa: SIM905
)
"""Common English words that other languages do not borrow. Those that many of them have too (is, to) are left out."""

_ALSO: dict[str, str] = {
    "af": "of it school",
    "da": "have not",
    "de": "also",
    "et": "must",
    "hu": "must",
    "nb": "have not",
    "nl": "of had school sleep just",
    "nn": "have not",
    "no": "have not",
    "sv": "not just",
}
"""Of them, words of other languages: what says nothing of English in an answer in that language."""


def foreign_words(text: str, target: str, identify: LanguageIdentifier | None = None) -> list[str]:
    """The words of an answer that are in another language of the target's script, or English ones in any script.

    Two things are found: common English words, which are seldom borrowed, and whole sentences of at least six
    words that the identifier says are in another language. Quotations, code, addresses and words that begin with
    a capital (names, titles) do not count.

    Args:
        text: the answer.
        target: the language it should be in.
        identify: tells the language of sentences; without it only English words are found.

    Returns:
        The words, in their order. None of them is proof by itself: see `mixed_words`.
    """
    tag = target.split("-")[0]
    plain = _QUOTED.sub(" ", letters(text))
    own = frozenset(_ALSO.get(tag, "").split())
    found: list[str] = []
    for sentence in _SENTENCE.split(plain):
        words = _WORD.findall(sentence)
        if identify is not None and len(words) >= SENTENCE and _foreign(sentence, tag, identify):
            found += words
        elif tag != "en":
            plainly = (word.replace("’", "'") for word in words if word.islower())
            found += [word for word in plainly if word in _ENGLISH and word not in own]
    return found


def _foreign(sentence: str, tag: str, identify: LanguageIdentifier) -> bool:
    return identify(sentence) not in (tag, None) and identify.confidence(sentence, tag) < DOUBT


def mixed_words(text: str, target: str, identify: LanguageIdentifier | None = None, *, share: float = 0.02) -> bool:
    """Whether at least this share of an answer's words, and one at least, are of another language: `foreign_words`.

    By the default share one English word is enough in an answer of up to fifty, and a long one may slip once.
    """
    words = len(_WORD.findall(_QUOTED.sub(" ", letters(text))))
    found = len(foreign_words(text, target, identify))
    return found > 0 and found >= share * words
