"""Find, measure and edit the language neurons of an LLM.

corpus ─▶ one forward pass ─▶ Recording ─▶ identify ─▶ NeuronSet ─▶ intervene ─▶ evaluate ─▶ report
"""

from neuroglot import alignment, evaluate, experts, identify
from neuroglot.bake import bake
from neuroglot.corpus import Corpus, load_corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evolve import evolve
from neuroglot.intervene import Add, Deactivate, Intervention, Raise, Replace, Scale, intervene
from neuroglot.model import Model, load_model
from neuroglot.neurons import NeuronSet
from neuroglot.prune import prune
from neuroglot.recording import Recording, Samples, record, record_samples

__version__ = "0.1.0"

__all__ = [
    "Add",
    "Corpus",
    "Deactivate",
    "Intervention",
    "Model",
    "NeuroglotError",
    "NeuroglotWarning",
    "NeuronSet",
    "Raise",
    "Recording",
    "Replace",
    "Samples",
    "Scale",
    "alignment",
    "bake",
    "evaluate",
    "evolve",
    "experts",
    "identify",
    "intervene",
    "load_corpus",
    "load_model",
    "prune",
    "record",
    "record_samples",
]
