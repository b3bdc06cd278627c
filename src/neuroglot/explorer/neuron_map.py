"""The Atlas tab: every neuron or expert of every layer, by language."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import counts, frequencies
from neuroglot.explorer.run_view import RunView
from neuroglot.figures.neuron_map import atlas_plot, bin_edges, binned, counted
from neuroglot.figures.screen import Plot

__all__ = ["Atlas"]

ACTIVE, APART, CHOSEN, SHARED = "active share", "difference of two", "a language’s neurons", "shared neurons"
EXPERTS, EXPERTS_APART, EXPERTS_SHARED = "experts", "experts, difference", "experts shared"


class Atlas:
    """What the atlas of a run can show.

    Attributes:
        run_view: the run.
        recording: of its neurons.
        languages: of the recording.
    """

    def __init__(self, run_view: RunView):
        if run_view.recording is None:
            raise NeuroglotError("The recording is not finished.")
        self.run_view = run_view
        self.recording: Recording = run_view.recording
        self.languages = self.recording.languages

    @cached_property
    def probabilities(self) -> Float64[Tensor, "layers neurons languages"]:
        """Activation probabilities."""
        return self.recording.probabilities

    @cached_property
    def means(self) -> Float32[np.ndarray, "layers bins languages"]:
        """The mean probability of each bin."""
        return binned(self.probabilities, self.recording.exists)

    @cached_property
    def frequency(self) -> Float64[Tensor, "languages layers experts"] | None:
        """How often each expert is activated; None if experts were not counted."""
        settings = self.run_view.run.manifest.experts
        if settings is None:
            return None
        try:
            return frequencies(self.run_view.run.expert_recording, settings.top[0])
        except NeuroglotError:
            return None

    @property
    def views(self) -> list[str]:
        """What there is to see."""
        views = [ACTIVE, APART]
        if self.run_view.neurons:
            views += [CHOSEN, SHARED]
        if self.frequency is not None:
            views += [EXPERTS, EXPERTS_APART, EXPERTS_SHARED]
        return views

    def plot(self, view: str, language: str, other: str, method: str | None = None) -> Plot:
        """The heatmap of a view."""
        k, j = self.languages.index(language), self.languages.index(other)
        neurons = self.recording.neurons
        if view == ACTIVE:
            return atlas_plot(self.means[..., k], neurons, label=f"active share, {language}", high=1.0)
        if view == APART:
            return atlas_plot(
                self.means[..., k] - self.means[..., j], neurons, label=f"{language} less {other}", apart=True
            )
        if view in (CHOSEN, SHARED):
            found = self.run_view.neurons[method or next(iter(self.run_view.neurons))]
            if view == SHARED:
                mask, label = found.mask.sum(0) >= 2, "neurons of two or more"
            elif language in found.languages:
                mask, label = found[language], f"neurons of {language}"
            else:
                mask, label = torch.zeros(found.shape, dtype=torch.bool), f"no neurons of {language}"
            return atlas_plot(counted(mask, self.recording.exists), neurons, label=label)
        assert self.frequency is not None
        experts = self.frequency.shape[2]
        tags = self._tags
        if view == EXPERTS_SHARED:
            number = counts(self.frequency).float().numpy()
            return atlas_plot(number, experts, label="languages", high=float(len(tags)), column="experts")
        if language not in tags or (view == EXPERTS_APART and other not in tags):
            empty = np.full(self.frequency.shape[1:], np.nan, dtype=np.float32)
            return atlas_plot(empty, experts, label="not counted", column="experts")
        values = self.frequency[tags.index(language)].float().numpy()
        if view == EXPERTS_APART:
            values = values - self.frequency[tags.index(other)].float().numpy()
            return atlas_plot(values, experts, label=f"{language} less {other}", apart=True, column="experts")
        return atlas_plot(
            values,
            experts,
            label=f"frequency, {language}",
            high=float(np.quantile(values, 0.99)) or 1.0,
            column="experts",
        )

    @cached_property
    def _tags(self) -> tuple[str, ...]:
        return self.run_view.run.expert_recording.languages

    def of_cell(self, view: str, layer: int, first: int, language: str, other: str, method: str | None) -> list[int]:
        """The neurons of a cell, the most telling first: those a method chose, then by how far the language stands out.

        Args:
            view: what is shown.
            layer: from 0.
            first: the first neuron of the cell, or the expert.
            language: whose.
            other: the one it is compared with.
            method: whose neurons come first.
        """
        if view in (EXPERTS, EXPERTS_APART, EXPERTS_SHARED):
            inside = (self.run_view.run.partition.labels[layer] == first).nonzero().flatten()
        else:
            edges = bin_edges(self.recording.neurons)
            place = int(np.searchsorted(edges, first, side="right")) - 1
            inside = torch.arange(int(edges[place]), min(int(edges[place + 1]), self.recording.widths[layer]))
        k, j = self.languages.index(language), self.languages.index(other)
        values = self.probabilities[layer, inside]
        rest = values[:, j] if view in (APART, EXPERTS_APART) else values.mean(1)
        score = (values[:, k] - rest).abs()
        found = self.run_view.neurons.get(method or "")
        if found is not None:
            chosen = found.mask.sum(0)[layer, inside] >= 2 if view == SHARED else found.mask.any(0)[layer, inside]
            if view != SHARED and language in found.languages:
                chosen = found[language][layer, inside]
            score = score + chosen.double()
        return inside[score.argsort(descending=True, stable=True)].tolist()
