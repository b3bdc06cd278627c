"""Each paper from its first step to its last table: one file a paper, thin readings of the library."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
