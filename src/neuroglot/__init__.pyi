"""The names that scripts call, and where each lives."""

from . import alignment as alignment
from . import evaluate as evaluate
from . import experts as experts
from . import identify as identify
from .baking import bake as bake
from .corpus import Corpus as Corpus
from .corpus import load_corpus as load_corpus
from .errors import NeuroglotError as NeuroglotError
from .errors import NeuroglotWarning as NeuroglotWarning
from .evolution import evolve as evolve
from .interventions import Add as Add
from .interventions import Deactivate as Deactivate
from .interventions import Intervention as Intervention
from .interventions import Raise as Raise
from .interventions import Replace as Replace
from .interventions import Scale as Scale
from .interventions import intervene as intervene
from .model import Model as Model
from .model import load_model as load_model
from .neurons import NeuronSet as NeuronSet
from .pruning import prune as prune
from .recording import Recording as Recording
from .recording import Samples as Samples
from .recording import record as record
from .recording import record_samples as record_samples
from .steering import Recipe as Recipe
from .steering import steer as steer

__version__: str
