"""Neurons of the experts that a language activates most."""

import torch

from neuroglot.artifacts.recording import EXPERTS, ROUTED
from neuroglot.identify.registry import method
from neuroglot.identify.selection import NEVER, Evidence, Scores


@method("experts", title="expert-frequency", needs=("experts",))
def _scores(evidence: Evidence) -> Scores:
    """The neurons of the experts that the language activates most often; within an expert by index."""
    assert evidence.labels is not None
    sums = evidence.recording.sums
    counted = ROUTED if ROUTED in sums else next(name for name in sums if name.startswith(EXPERTS))
    frequency = (sums[counted] / evidence.recording.tokens.to(torch.float64)).movedim(
        -1, 0
    )  # languages, layers, experts
    labels = evidence.labels.expand(len(frequency), -1, -1)
    return frequency.gather(2, labels.clamp_min(0)).masked_fill(labels < 0, NEVER)
