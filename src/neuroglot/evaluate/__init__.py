"""What a model can do, intact or changed: perplexity by language, what switching neurons off does, what it answers."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
