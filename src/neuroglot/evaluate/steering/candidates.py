"""What a search for the best steering tries: conditions, under settings, on top of a prompting."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from neuroglot.alignment.scores import by_layer
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.prompts import Prompting
from neuroglot.edit.positions import When
from neuroglot.edit.steering_methods import Direction, Method
from neuroglot.evaluate.steering.forcing import Forced, Steering, condition_name
from neuroglot.models.architecture.sites import Site
from neuroglot.storage.given import takes_numbers

__all__ = ["Candidate", "alignment_layers", "candidates", "grid"]

SPARSE_TOKENS: tuple[When, ...] = ("both", "generated")
SPARSE_SIZES = (None, 400)
"""Dimensions that `sparse` changes after a layer: a tenth, and as many as published for a stream of 4,096."""


@dataclass(frozen=True)
class Candidate:
    """One way to have a model answer in a language.

    Attributes:
        how: the target is raised.
        condition: `both` ablates the source's neurons too, `raised` does not, and `intact` changes nothing.
        prompting: what the prompts ask for.
    """

    how: Steering = field(default_factory=Steering)
    condition: Forced = "both"
    prompting: Prompting = "none"

    @property
    def family(self) -> str:
        """What it is whatever its strength and its layers: `diffmean + prompting I`."""
        if self.condition == "intact":
            return condition_name("intact", self.prompting)
        neurons = f"{self.how.raised} + " if self.how.raised else ""
        off = ", source off" if self.condition == "both" else ""
        return condition_name(f"{neurons}{self.how.method}{off}", self.prompting)

    @property
    def single(self) -> bool:
        """Whether it is one method alone: a prompting, neurons or a direction."""
        return self.condition == "intact" or (self.prompting == "none" and self.how.raised is None)

    def words(self) -> str:
        """In a few words."""
        if self.condition == "intact":
            return self.family
        off = ", source off" if self.condition == "both" else ""
        return condition_name(f"{self.how.words()}{off}", self.prompting)


@takes_numbers
def grid(
    layers: int,
    methods: Iterable[Method] = ("replace", "raise", "difference", "scale"),
    sites: Iterable[Site] = ("activation", "hidden"),
    strengths: Iterable[float] = (1.0, 2.0),
) -> list[Steering]:
    """What `search` tries of neurons by default: every method, site and strength, in all layers and the last third.

    Scaling takes the strength plus one, since a factor of one changes nothing.
    """
    spans: list[tuple[int, ...] | None] = [None, tuple(range(layers - max(1, layers // 3), layers))]
    return [
        Steering(method=method, site=site, strength=strength + (method == "scale"), layers=span)
        for method in methods
        for site in sites
        for strength in strengths
        for span in spans
    ]


def alignment_layers(samples: Samples) -> tuple[int, ...]:
    """Layers to steer after that are known before anything is tried, from 0: where SADS is highest, and where LRDS is.

    Where SADS is highest the stream says most of meaning beside language: what follows decides the language. Where LRDS
    is highest languages lie farthest apart (Zeng et al. 2025, §3.2). They may be one layer.
    """
    scores = by_layer(samples, draws=0)
    return tuple(dict.fromkeys(int(scores[name].to_numpy().argmax()) for name in ("sads", "lrds")))


@takes_numbers
def candidates(
    layers: int,
    *,
    neurons: Sequence[Method] = ("raise", "replace"),
    directions: Sequence[Direction] = ("diffmean", "sparse"),
    promptings: Sequence[Prompting] = ("none", "I", "II"),
    strengths: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    a_priori: Sequence[int] = (),
    conditions: Sequence[Forced] = ("raised",),
) -> list[Candidate]:
    """Methods × sites × layers × strengths × prompting, and promptings alone.

    Neurons are changed at the activation site and the hidden site, in all layers and in the last third. Directions act
    after one layer, at a quarter, a half and three quarters of the depth and at those said beforehand; and
    in the middle third at once, with a strength that is shared among its layers. `sparse` has no strength: it sets a
    tenth of the dimensions or 400, on all tokens or on those generated, which leaves the first token, an attention sink
    in many models, as it is. Each direction also goes together with neurons.

    Args:
        layers: of the model.
        neurons: methods that change neurons.
        directions: those of the residual stream; `probe` and `lda` need samples.
        promptings: under each of them everything is tried.
        strengths: of directions; neurons take 1 and 2.
        a_priori: layers from 0, such as `alignment_layers` gives.
        conditions: `raised`, `both` or each of them.
    """
    spots = sorted({*(layers * part // 4 for part in (1, 2, 3)), *a_priori})
    middle = tuple(range(layers // 3, max(layers // 3 + 1, 2 * layers // 3)))
    settings = [] if not neurons else grid(layers, neurons)
    for method in directions:
        joined: list[Method | None] = [None, *neurons[:1]]
        for raised in joined:
            if method == "sparse":
                settings += [
                    Steering(method=method, layers=span, raised=raised, dimensions=few, when=when)
                    for few, when, span in product(SPARSE_SIZES, SPARSE_TOKENS, [*((s,) for s in spots), middle])
                ]
                continue
            for strength in strengths:
                spans: list[tuple[tuple[int, ...], float]] = [((spot,), strength) for spot in spots]
                spans.append((middle, strength / len(middle)))
                settings += [
                    Steering(method=method, strength=times, layers=span, raised=raised) for span, times in spans
                ]
    steered = [
        Candidate(how, condition, prompting) for prompting in promptings for condition in conditions for how in settings
    ]
    alone = [Candidate(condition="intact", prompting=prompting) for prompting in promptings if prompting != "none"]
    return [*alone, *steered]
