"""Which language a text is in: by its script where that decides, by lingua's models where it does not."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from langcodes import Language

from neuroglot.errors import NeuroglotError, require
from neuroglot.languages.tags import language_tag

__all__ = ["LanguageIdentifier", "letters", "mixed_script", "scripts"]

OTHERS = tuple("en zh fr es vi id ja pt ar hi bn ur de it nl pl ru uk tr fa ko th sv ro ca el he".split())  # noqa: SIM905
"""What an answer may also be in: a text is compared with these too, so that it is not forced into what was asked."""

SHORTEST = 3
"""Letters that a text needs (characters of Chinese, Japanese or Korean count three times)."""

_NOISE = re.compile(r"```.*?```|`[^`\n]*`|https?://\S+|<[^<>\n]{1,60}>|\S+@\S+", re.DOTALL)
_WIDE = ("Han", "Hangul")
_EAST_ASIAN = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "HANGUL": "Hangul", "BOPOMOFO": "Han"}
_SCRIPTS = {
            "Hans": "Han", "Hant": "Han", "Hani": "Han", "Jpan": "Han", "Kore": "Hangul", "Latn": "Latin",
            "Cyrl": "Cyrillic", "Arab": "Arabic", "Deva": "Devanagari", "Beng": "Bengali", "Grek": "Greek",
            "Hebr": "Hebrew", "Armn": "Armenian", "Geor": "Georgian", "Guru": "Gurmukhi", "Gujr": "Gujarati",
            "Taml": "Tamil", "Telu": "Telugu", "Thai": "Thai", "Khmr": "Khmer", "Laoo": "Lao", "Mymr": "Myanmar",
            "Ethi": "Ethiopic", "Sinh": "Sinhala", "Knda": "Kannada", "Mlym": "Malayalam", "Tibt": "Tibetan",
}  # fmt: skip


@lru_cache(maxsize=1 << 16)
def _script(letter: str) -> str | None:
    """The script of a letter or of a mark that is written with it; None if it is neither."""
    if unicodedata.category(letter)[0] not in "LM":
        return None
    words = unicodedata.name(letter, "").replace("-", " ").split()
    words = words[1:] if words and words[0] in ("FULLWIDTH", "HALFWIDTH") else words
    if not words or words[0] in ("COMBINING", "MODIFIER", "VARIATION"):
        return None
    return _EAST_ASIAN.get(words[0], words[0].capitalize())


def letters(text: str) -> str:
    """A text without code, addresses, mark-up in angle brackets and e-mails, whose letters say nothing of language."""
    return _NOISE.sub(" ", text)


def scripts(text: str) -> dict[str, float]:
    """The share of a text's letters in each script, largest first.

    A Chinese character or a Hangul syllable counts as three letters, about what it holds. Kana count as one script.
    """
    counts: Counter[str] = Counter()
    for letter in letters(text):
        name = _script(letter)
        if name:
            counts[name] += 3 if name in _WIDE else 2 if name == "Kana" else 1
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common()}


def _weight(text: str) -> int:
    return sum(3 if name in _WIDE else 2 if name == "Kana" else 1 for name in map(_script, text) if name)


def _writing(shares: dict[str, float]) -> dict[str, float]:
    """Scripts with Kana joined to Han, as Japanese writes both."""
    joined = dict(shares)
    if "Kana" in joined:
        joined["Han"] = joined.get("Han", 0.0) + joined.pop("Kana")
    return dict(sorted(joined.items(), key=lambda item: -item[1]))


def mixed_script(text: str, *, share: float = 0.2) -> bool:
    """Whether a second writing system has at least this share of the letters.

    Han with Kana is one writing system. A Latin name in a Chinese sentence stays below the default share.
    """
    return any(value >= share for value in list(_writing(scripts(text)).values())[1:])


class LanguageIdentifier:
    """Tells which language a text is in, among those asked for and the large ones beside them.

    The script that has most of the letters decides which languages are possible; where it leaves several, lingua's
    n-gram models choose, reading the letters of that script only. So a Chinese answer that quotes English words is
    Chinese, and a text of two scripts is what most of it is. Han with Kana is Japanese, without it Chinese.

    Args:
        languages: those that matter. Languages that are alike (Malay and Indonesian, Serbian and Croatian) are told
            apart only if both are asked for.

    Raises:
        NeuroglotError: lingua is not installed, or a language can be told neither by lingua nor by its script.
    """

    def __init__(self, languages: Sequence[str]):
        tags = [_base(tag) for tag in languages]
        written = {_base(tag): _own_script(language_tag(tag)) for tag in languages}
        self.languages = tuple(dict.fromkeys([*tags, *OTHERS]))
        known = {language.iso_code_639_1.name.lower(): language for language in _lingua().Language.all()}
        known |= {"no": known["nb"], "fil": known["tl"]}
        for tag, script in written.items():
            if script != _own_script(tag):  # lingua reads a language in its own script only: Serbian not in Latin
                known.pop(tag, None)
        self._of_script: dict[str, list[str]] = {}
        for tag in self.languages:
            self._of_script.setdefault(written.get(tag) or _own_script(tag), []).append(tag)
        for tag in tags:
            rivals = self._of_script[written[tag]]
            if tag not in known and len(rivals) > 1:
                raise NeuroglotError(
                    f"No library here tells {tag} from {', '.join(rival for rival in rivals if rival != tag)}, which "
                    "share its script; leave it out."
                )
        self._known = known
        self._names = {known[tag]: tag for tag in self.languages if tag in known}
        self._detectors: dict[str, Any] = {}

    def __call__(self, text: str) -> str | None:
        """The language of a text, without script and region; None if it has too few letters to tell.

        `closest` finds the tag among others that it is, as `zh` is `zh-CN`.
        """
        clean = letters(text)
        if _weight(clean) < SHORTEST:
            return None
        shares = scripts(text)
        script = next(iter(_writing(shares)))
        if script == "Han":
            kana, han = shares.get("Kana", 0.0), shares.get("Han", 0.0)
            return "ja" if kana > 0.1 * (kana + han) else "zh"
        possible = self._of_script.get(script, [])
        if len(possible) < 2:
            return possible[0] if possible else None
        own = "".join(letter if _script(letter) in (script, None) else " " for letter in clean)
        found = self._detector(script, possible).detect_language_of(" ".join(own.split()))
        return None if found is None else self._names[found]

    def _detector(self, script: str, possible: Sequence[str]) -> Any:
        if script not in self._detectors:
            languages = [self._known[tag] for tag in possible if tag in self._known]
            self._detectors[script] = _lingua().LanguageDetectorBuilder.from_languages(*languages).build()
        return self._detectors[script]


def _lingua() -> Any:
    return require("lingua", "generation", needed_by="Telling which language a text is in")


def _base(tag: str) -> str:
    return str(Language.get(language_tag(tag)).language)


def _own_script(tag: str) -> str:
    code = Language.get(tag).maximize().script or ""
    return _SCRIPTS.get(code, code)
