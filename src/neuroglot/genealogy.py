"""Families, genera and scripts of languages, by our own small table (families and genera as WALS names them)."""

from typing import NamedTuple

import langcodes

__all__ = ["Genealogy", "genealogy"]


class Genealogy(NamedTuple):
    """Where a language belongs."""

    family: str
    genus: str
    script: str


_TABLE = {
    "Indo-European": {
        "Germanic": "en de nl sv da nb nn no is af yi lb",
        "Romance": "fr es pt it ro ca gl",
        "Indic": "hi bn ur pa mr gu ne si as or sd",
        "Iranian": "fa ps ku tg",
        "Slavic": "ru uk be pl cs sk bg sr hr sl mk bs",
        "Baltic": "lt lv",
        "Greek": "el",
        "Celtic": "ga cy gd br",
        "Armenian": "hy",
        "Albanian": "sq",
    },
    "Afro-Asiatic": {"Semitic": "ar he am mt ti", "West Chadic": "ha", "Lowland East Cushitic": "so om"},
    "Sino-Tibetan": {"Chinese": "zh yue", "Bodic": "bo dz", "Burmese-Lolo": "my"},
    "Austronesian": {"Malayo-Sumbawan": "id ms", "Javanese": "jv", "Greater Central Philippine": "tl ceb"},
    "Austro-Asiatic": {"Vietic": "vi", "Khmer": "km"},
    "Japanese": {"Japanese": "ja"},
    "Korean": {"Korean": "ko"},
    "Altaic": {"Turkic": "tr az kk uz ky tk tt", "Mongolic": "mn"},
    "Dravidian": {"Southern Dravidian": "ta ml kn", "South-Central Dravidian": "te"},
    "Tai-Kadai": {"Kam-Tai": "th lo"},
    "Uralic": {"Finnic": "fi et", "Ugric": "hu"},
    "Niger-Congo": {"Bantoid": "sw zu xh st rw ln", "Defoid": "yo", "Igboid": "ig", "Northern Atlantic": "wo ff"},
    "Kartvelian": {"Kartvelian": "ka"},
    "Basque": {"Basque": "eu"},
}
_PLACES = {
    tag: (family, genus) for family, genera in _TABLE.items() for genus, tags in genera.items() for tag in tags.split()
}


def genealogy(tag: str) -> Genealogy | None:
    """The family, genus and script (ISO 15924) of a language; None if the table does not have it."""
    language = langcodes.Language.get(tag)
    place = _PLACES.get(language.language or "")
    return None if place is None else Genealogy(*place, language.maximize().script or "")
