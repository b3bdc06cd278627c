"""Neurons by their activation probability alone: LAP."""

import warnings

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.widths import stated, within
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import Scores
from neuroglot.storage.given import takes_numbers

__all__ = ["lap"]


@method("lap", title="LAP", needs=("active",))
def _scores(recording: Recording) -> Scores:
    """The highest activation probability in the language."""
    return recording.probabilities.movedim(-1, 0).contiguous()


@default_choice("lap")
@takes_numbers
def lap(recording: Recording, *, threshold: float = 0.95) -> NeuronSet:
    """Language activation probability (Tang et al. 2024, §3.1 b): a language's neurons are active on more than 95 %.

    Args:
        recording: needs `active`.
        threshold: in [0, 1); a neuron belongs to each language in which its probability is above it.

    Raises:
        NeuroglotError: `threshold` is out of range.
    """
    if not 0 <= threshold < 1:
        raise NeuroglotError(f"threshold must be at least 0 and below 1, not {threshold}.")
    neurons = NeuronSet(
        within(_scores(recording), recording.widths) > threshold,
        recording.languages,
        {
            "method": "lap",
            "threshold": threshold,
            **stated(recording.widths),
            **origin(recording),
        },
    )
    empty = [tag for tag, count in neurons.sizes().items() if count == 0]
    if empty:
        none = f"no {recording.units.removesuffix('s')}"
        warnings.warn(f"lap found {none} above {threshold} in {', '.join(empty)}.", NeuroglotWarning, stacklevel=2)
    return neurons
