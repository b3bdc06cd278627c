"""What the tab of the attention heads shows: how often each gives more than the heads beside it, and whose it is."""

import numpy as np

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import HEADS
from neuroglot.explorer.run_view import RunView
from neuroglot.figures.screen import Plot, heatmap
from neuroglot.identify.registry import title
from neuroglot.identify.units import units_of

__all__ = ["HeadMap"]


class HeadMap:
    """The heads of a run that recorded them.

    Attributes:
        recording: of the heads.
        languages: of the recording.
        sets: method → the heads it found.
    """

    def __init__(self, run_view: RunView):
        assert run_view.recording is not None
        self.recording = run_view.recording.of("heads")
        self.languages = self.recording.languages
        run = run_view.run
        found = [
            name for name in run.manifest.identify if units_of(name) == "heads" and run.neurons_path(name).is_file()
        ]
        self.sets: dict[str, NeuronSet] = {name: run.neurons(name, "heads") for name in found}

    @staticmethod
    def there(run_view: RunView) -> bool:
        """Whether the run has recorded heads."""
        return run_view.recording is not None and HEADS in run_view.recording.sums

    def plot(self, language: str, other: str | None = None) -> Plot:
        """Attentions by heads: the share of a language's tokens on which a head gives more than its layer's mean.

        Args:
            language: whose tokens.
            other: less the share of this language's.
        """
        p = self.recording.probabilities.numpy()
        values, apart = p[..., self.languages.index(language)], other is not None and other != language
        label = f"share of tokens, {language}"
        if apart and other is not None:
            values, label = values - p[..., self.languages.index(other)], f"{language} less {other}"
        values = np.where(self.recording.exists.numpy(), values, np.nan)
        attentions, heads = values.shape
        whose = [["<br>".join(self.whose(place, head)) for head in range(heads)] for place in range(attentions)]
        return heatmap(
            values,
            x=list(range(heads)),
            y=list(range(1, attentions + 1)),
            hover="attention %{y}, head %{x}<br>%{z:.3f}<br>%{text}",
            x_title="head, from 0",
            y_title="attention, from 1",
            label=label,
            low=None if apart else 0.0,
            apart=apart,
            text=whose,
        )

    def whose(self, place: int, head: int) -> list[str]:
        """In which languages' sets a head is, a line a method."""
        lines = []
        for name, sets in self.sets.items():
            tags = [tag for tag in sets.languages if bool(sets[tag][place, head])]
            if tags:
                lines.append(f"{title(name)}: {', '.join(tags)}")
        return lines
