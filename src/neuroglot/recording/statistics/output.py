"""What zeroing a neuron changes in what its FFN gives: its value times its column of the down-projection."""

from collections.abc import Sequence

import torch
from torch import Tensor

from neuroglot.artifacts.widths import padded
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import FFN
from neuroglot.recording.statistics.sums import Sums

__all__ = ["OUTPUT", "OutputChange"]

OUTPUT = "output"


class OutputChange(Sums):
    """Σ over tokens of ‖h_j · W_down[:, j]‖ = |h_j| · ‖W_down[:, j]‖ of every neuron: `magnitude` times a constant.

    It is what PLND measures by zeroing neurons one after another (Zhao et al. 2024, *How do Large Language Models
    Handle Multilingualism?*, §3). It costs one sum more in the pass.

    Raises:
        NeuroglotError: the weights are packed or elsewhere.
    """

    def __init__(self, ffns: Sequence[FFN]):
        super().__init__(ffns, ("magnitude",))
        norms = []
        for ffn in ffns:
            if not ffn.readable:
                raise NeuroglotError(
                    "The down-projections are quantised or offloaded, so the change of the output cannot be computed; "
                    f"load the model whole, or leave {OUTPUT} out."
                )
            norms.append(ffn.down_columns.detach().to(torch.float64).norm(dim=0).cpu())
        self._norms = padded(norms)

    def flush(self) -> dict[str, Tensor]:
        """The totals so far, (L, N), 0 beyond a layer's width; they start again from zero."""
        return {OUTPUT: super().flush()["magnitude"] * self._norms}
