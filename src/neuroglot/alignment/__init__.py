"""How alike a model's activations are for one language, and for one meaning. Samples in, values out; no model code."""

from neuroglot.alignment.embedding import dominance, ses
from neuroglot.alignment.place import by_expert, compare, in_experts
from neuroglot.alignment.scores import by_layer, lrds, sads, sklr, summary
from neuroglot.alignment.similarity import similarity_map

__all__ = [
    "by_expert",
    "by_layer",
    "compare",
    "dominance",
    "in_experts",
    "lrds",
    "sads",
    "ses",
    "similarity_map",
    "sklr",
    "summary",
]
