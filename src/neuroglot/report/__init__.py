"""Pages, figures and tables of a run, for people to look at."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
