"""Families, genera and scripts of languages, by our own small table (families and genera as WALS names them)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from langcodes import Language
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag

__all__ = ["Genealogy", "distances", "genealogy", "relatedness"]


Matrix = Float64[Tensor, "languages languages"]


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
    language_tag(tag): (family, genus)
    for family, genera in _TABLE.items()
    for genus, tags in genera.items()
    for tag in tags.split()
}


def genealogy(tag: str) -> Genealogy | None:
    """The family, genus and script (ISO 15924) of a language; None if the table does not have it."""
    language = Language.get(language_tag(tag))
    place = _PLACES.get(language.language or "")
    return None if place is None else Genealogy(*place, language.maximize().script or "")


def distances(languages: Sequence[str]) -> Tensor | None:
    """How far languages are apart by descent (0 to 2, as `experts.relatedness`), and half a step more if they are
    written differently; None where a language is not in our table, or all are equally far apart."""
    try:
        far = relatedness(languages) + relatedness(languages, "script") / 2
    except NeuroglotError:
        return None
    apart = far[~torch.eye(len(far), dtype=torch.bool)]
    return far if len(apart) and float(apart.min()) < float(apart.max()) else None


def relatedness(languages: Sequence[str], by: str = "family") -> Matrix:
    """How far languages are from each other by descent or by writing.

    Args:
        languages: K tags.
        by: `family`: 0 for one genus, 1 for two genera of one family, 2 for two families; `script`: 0 or 1.

    Raises:
        NeuroglotError: a language is not in our table.
    """
    found = {tag: genealogy(tag) for tag in languages}
    unknown = [tag for tag, place in found.items() if place is None]
    if unknown:
        raise NeuroglotError(f"The family of {', '.join(unknown)} is not in our table; leave it out of the comparison.")
    places = [place for place in found.values() if place is not None]
    if by == "script":
        rows = [[float(a.script != b.script) for b in places] for a in places]
    else:
        rows = [[float(a.genus != b.genus) + float(a.family != b.family) for b in places] for a in places]
    return torch.tensor(rows, dtype=torch.float64)
