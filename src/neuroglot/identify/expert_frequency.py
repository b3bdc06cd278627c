"""Neurons of the experts that a language activates most."""

from neuroglot.artifacts.recording import EXPERTS
from neuroglot.identify.registry import method
from neuroglot.identify.selection import Evidence, Scores


@method("experts", title="expert-frequency", needs=("experts",))
def _scores(evidence: Evidence) -> Scores:
    """The neurons of the experts that the language activates most often; within an expert by index."""
    assert evidence.labels is not None
    first = next(name for name in evidence.recording.sums if name.startswith(EXPERTS))  # the first share or number
    frequency = evidence.recording.mean(first).movedim(-1, 0)  # languages, layers, experts
    return frequency.gather(2, evidence.labels.clamp_min(0).expand(len(frequency), -1, -1))
