"""An expert's page: how often each language is routed to it, its neurons, and the tokens on which it counts most."""

from dataclasses import dataclass, field

from neuroglot.errors import NeuroglotError
from neuroglot.explorer.neuron import Words, examples_in_words
from neuroglot.explorer.neuron_map import Atlas
from neuroglot.explorer.run_view import RunView, drawn
from neuroglot.figures.neuron_map import atlas_plot
from neuroglot.figures.screen import Plot
from neuroglot.run.experts import RunExperts
from neuroglot.stats import wilson

__all__ = ["Expert", "Router", "expert_page"]

NEURONS = 12


@dataclass(frozen=True)
class Expert:
    """What is known of an expert of a native mixture of experts."""

    layer: int
    """From 1."""
    number: int
    """From 0."""
    rows: list[tuple[str, int, float, float, float, float]]
    """For each language: tokens routed to it, their share, its 95 % interval, and the share of the router's choices."""
    high: float
    """From which share on it is high-frequency."""
    sets: dict[str, dict[str, int]]
    """Method → language → how many of its neurons are in the language's set."""
    neurons: list[tuple[int, str, float]]
    """Its neurons that tell a language most where they are reached: number, language, and how far its share of active
    tokens is above the mean of the others'."""
    width: int
    """How many neurons it has."""
    examples: dict[str, list[Words]] = field(default_factory=dict)
    """Language → the tokens on which it counts most, in context."""
    undetermined: str = ""
    """Why there are no examples."""


class Router:
    """What the tab of the routers of a run shows.

    Attributes:
        atlas: of the run.
        counted: its experts.
        languages: of the recording.
        numbers: of the layers that have a router, from 1.
    """

    def __init__(self, run_view: RunView, counted: RunExperts):
        self.atlas, self.counted = Atlas(run_view), counted
        self.languages = counted.recording.languages
        self.numbers = [layer + 1 for layer in counted.layers]

    def plot(self, language: str, other: str | None = None) -> Plot:
        """How often each expert is chosen for a language, or how much more often than for another one."""
        frequency = self.counted.frequency
        values = frequency[self.languages.index(language)].float()
        named, top = f"frequency, {language}", float(frequency.max()) or 1.0
        if other is not None and other != language:
            values = values - frequency[self.languages.index(other)].float()
            named, top = f"{language} less {other}", float(values.abs().max()) or 1.0
        apart = other is not None and other != language
        return atlas_plot(
            values.numpy(), values.shape[1], label=named, apart=apart, high=top, column="experts", rows=self.numbers
        )

    def expert(self, layer: int, number: int) -> Expert:
        """Everything about an expert; layer and number from 0.

        Raises:
            NeuroglotError: there is no such expert.
        """
        recording = self.counted.recording
        assert recording.experts is not None
        experts, width = recording.experts[layer] if 0 <= layer < recording.layers else (0, 0)
        if not 0 <= number < experts:
            layers = ", ".join(map(str, self.numbers))
            raise NeuroglotError(f"There is no such expert; layers {layers} have a router, and experts count from 0.")
        routed = recording.sum("routed")[layer]
        of_expert, tokens = routed[number], recording.tokens
        choices = of_expert / routed.sum(0).clamp_min(1)
        low, high = (end.clamp(0, 1) for end in wilson(of_expert, tokens))
        columns = (of_expert, of_expert / tokens, low, high, choices)
        own = slice(number * width, (number + 1) * width)
        examples, undetermined = examples_in_words(self.atlas, layer, recording.widths[layer] + number)
        return Expert(
            layer=layer + 1,
            number=number,
            rows=list(zip(self.languages, *(column.tolist() for column in columns), strict=True)),
            high=self.counted.high,
            sets={
                method: {tag: int(found[tag][layer, own].sum()) for tag in found.languages}
                for method, found in self.atlas.run_view.neurons.items()
            },
            neurons=self._telling(layer, own),
            width=width,
            examples=examples,
            undetermined=undetermined.replace("excite a neuron most", "reach an expert most"),
        )

    def _telling(self, layer: int, own: slice) -> list[tuple[int, str, float]]:
        """The neurons whose conditional share in one language is furthest above the mean of the others'."""
        count = len(self.languages)
        if count < 2:
            return []
        shares = self.counted.recording.given_routing().probabilities[layer, own]
        apart = (shares - (shares.sum(1, keepdim=True) - shares) / (count - 1)).max(1)
        most = apart.values.topk(min(NEURONS, len(shares)))
        return [
            (own.start + place, self.languages[int(apart.indices[place])], value)
            for value, place in zip(most.values.tolist(), most.indices.tolist(), strict=True)
            if value > 0
        ]


def expert_page(expert: Expert) -> str:
    """The page, as HTML; what comes from text is escaped."""
    return drawn("expert.html", expert=expert)
