"""The names that scripts call, and where each lives."""

from neuroglot import alignment as alignment
from neuroglot import corpus as corpus
from neuroglot import evaluate as evaluate
from neuroglot import experts as experts
from neuroglot import figures as figures
from neuroglot import identify as identify
from neuroglot import recording as recording
from neuroglot.artifacts.neurons import NeuronSet as NeuronSet
from neuroglot.artifacts.recording import Recording as Recording
from neuroglot.artifacts.samples import Samples as Samples
from neuroglot.corpus.corpus import Corpus as Corpus
from neuroglot.corpus.load import load_corpus as load_corpus
from neuroglot.edit.baking import bake as bake
from neuroglot.edit.drift import AddOnDrift as AddOnDrift
from neuroglot.edit.interventions import Add as Add
from neuroglot.edit.interventions import Deactivate as Deactivate
from neuroglot.edit.interventions import Intervention as Intervention
from neuroglot.edit.interventions import Raise as Raise
from neuroglot.edit.interventions import Replace as Replace
from neuroglot.edit.interventions import Scale as Scale
from neuroglot.edit.interventions import intervene as intervene
from neuroglot.edit.published import load_directions as load_directions
from neuroglot.edit.published import steer_along as steer_along
from neuroglot.edit.recipes import Recipe as Recipe
from neuroglot.edit.routing import DeactivateExperts as DeactivateExperts
from neuroglot.edit.routing import FavourExperts as FavourExperts
from neuroglot.edit.routing import language_experts as language_experts
from neuroglot.edit.steering import steer as steer
from neuroglot.errors import NeuroglotError as NeuroglotError
from neuroglot.errors import NeuroglotWarning as NeuroglotWarning
from neuroglot.models.loading import load_model as load_model
from neuroglot.models.model import Model as Model
from neuroglot.models.workers import with_workers as with_workers
from neuroglot.pruning.checkpoint import prune as prune
from neuroglot.recording.record_samples import record_samples as record_samples
from neuroglot.recording.recorder import record as record
from neuroglot.run.evolution import evolve as evolve

__version__: str
