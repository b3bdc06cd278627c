"""The studies, by the names that the command line takes."""

from neuroglot.studies.babel import Babel
from neuroglot.studies.lape import Lape
from neuroglot.studies.lingua_franca import LinguaFranca
from neuroglot.studies.study import Study

__all__ = ["STUDIES"]

STUDIES: dict[str, type[Study]] = {"lape": Lape, "babel": Babel, "lingua-franca": LinguaFranca}
