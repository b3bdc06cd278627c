"""Parallel language-specific neuron detection (PLND): neurons that change what an FFN gives in one language only."""

import torch

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import origin
from neuroglot.artifacts.recording import Recording
from neuroglot.identify.importance import excess
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import Scores, select_top
from neuroglot.storage.given import takes_numbers

__all__ = ["plnd"]


@method("plnd", title="PLND", needs=("output",))
def _plnd(recording: Recording) -> Scores:
    """The largest excess over the next language of the change that zeroing the neuron makes in its FFN's output."""
    return excess(recording, "output", "plnd")


@default_choice("plnd")
@takes_numbers
def plnd(recording: Recording, *, top_fraction: float = 0.01) -> NeuronSet:
    """Neurons that are among the most important of one language and of no other (Zhao et al. 2024, §3).

    Importance is how far the output of the FFN moves when the neuron is zeroed, ‖h_j · W_down[:, j]‖. The paper takes
    neurons that matter on every text of a language and takes away what languages have in common; here the mean over
    tokens decides, and the share is chosen.

    Args:
        recording: needs `output`.
        top_fraction: which neurons are a language's most important, as a share of all.

    Raises:
        NeuroglotError: there is one language only, `top_fraction` is out of range, or `output` was not recorded.
    """
    important = recording.mean("output").movedim(-1, 0).contiguous()
    about = {
        "method": "plnd",
        "top_fraction": top_fraction,
        **origin(recording),
    }
    most = select_top(important, recording.languages, top_fraction, about, recording.widths)
    alone = most.mask & (torch.sum(most.mask, 0) == 1)
    return NeuronSet(alone, most.languages, most.about)
