"""How alike a model's activations are for one language, and for one meaning. Samples in, values out; no model code."""

from neuroglot.alignment.scores import by_layer as by_layer
from neuroglot.alignment.scores import lrds as lrds
from neuroglot.alignment.scores import sads as sads
from neuroglot.alignment.scores import sklr as sklr
from neuroglot.alignment.scores import summary as summary
from neuroglot.alignment.sentence_similarity import dominance as dominance
from neuroglot.alignment.sentence_similarity import ses as ses
from neuroglot.alignment.similarity import similarity_map as similarity_map
from neuroglot.experts.overlap import by_expert as by_expert
from neuroglot.experts.overlap import in_experts as in_experts
from neuroglot.identify.overlap import compare as compare
