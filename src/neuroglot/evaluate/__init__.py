"""What a model can do, intact or changed: perplexity by language, and what switching neurons off does to it."""

from neuroglot.evaluate.generation import beginnings, continuations, generate
from neuroglot.evaluate.perplexity import perplexity
from neuroglot.evaluate.perturbation import Perturbation, perturb

__all__ = ["Perturbation", "beginnings", "continuations", "generate", "perplexity", "perturb"]
