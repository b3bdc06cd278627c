"""Each paper from its first step to its last table: one file a paper, thin readings of the library."""

from neuroglot.studies.babel import Babel, BabelSettings
from neuroglot.studies.lape import Lape, LapeSettings
from neuroglot.studies.lingua_franca import LinguaFranca, LinguaFrancaSettings
from neuroglot.studies.study import Finding, Study, StudySettings, preset, read_settings

STUDIES: dict[str, type[Study]] = {"lape": Lape, "babel": Babel, "lingua-franca": LinguaFranca}
"""The studies, by the names that the command line takes."""

__all__ = [
    "STUDIES",
    "Babel",
    "BabelSettings",
    "Finding",
    "Lape",
    "LapeSettings",
    "LinguaFranca",
    "LinguaFrancaSettings",
    "Study",
    "StudySettings",
    "preset",
    "read_settings",
]
