"""Neurons in groups: partitions into experts, how often each language activates them, and which to keep."""

from neuroglot.faces import hand_on

__all__ = hand_on(__name__)
