"""Neurons of the experts that a language activates most."""

from neuroglot.artifacts.recording import EXPERTS
from neuroglot.errors import NeuroglotError
from neuroglot.identify.selection import Evidence, Scores


def _experts(evidence: Evidence) -> Scores:
    """The neurons of the most frequently activated experts first; within an expert by index."""
    names = [name for name in evidence.recording.sums if name.startswith(EXPERTS)]  # the first share or number
    if evidence.labels is None or not names:
        raise NeuroglotError("experts needs a recording that counted experts, and their partition.")
    frequency = evidence.recording.mean(names[0]).movedim(-1, 0)  # languages, layers, experts
    return frequency.gather(2, evidence.labels.expand(len(frequency), -1, -1))
