"""Each paper from its first step to its last table: one file a paper, thin readings of the library."""

from neuroglot.studies.babel import Babel as Babel
from neuroglot.studies.babel import BabelSettings as BabelSettings
from neuroglot.studies.lape import Lape as Lape
from neuroglot.studies.lape import LapeSettings as LapeSettings
from neuroglot.studies.lingua_franca import LinguaFranca as LinguaFranca
from neuroglot.studies.lingua_franca import LinguaFrancaSettings as LinguaFrancaSettings
from neuroglot.studies.registry import STUDIES as STUDIES
from neuroglot.studies.settings import StudySettings as StudySettings
from neuroglot.studies.settings import preset as preset
from neuroglot.studies.settings import read_settings as read_settings
from neuroglot.studies.study import Finding as Finding
from neuroglot.studies.study import Study as Study
