"""What one pass over a corpus leaves: sums over tokens, by neuron and language."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from neuroglot.artifacts.examples import Examples
from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.sums import Merge, check_sums, merged
from neuroglot.artifacts.widths import exists, given_widths
from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import language_tag
from neuroglot.stats import entropy
from neuroglot.storage.tensors import load_tensors, save_tensors, whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXPERTS", "FOLDS", "HEADS", "HEADS_ACTIVE", "RESIDUAL", "ROUTED", "Recording"]

KIND, VERSION = "recording", 2  # 2 only adds examples, so without them 1 is written
VALUES, PLACES = "examples.values", "examples.places"


@dataclass(frozen=True, eq=False)
class Recording:
    """Statistics of one model over one corpus, by language. Immutable; it adds.

    `first + second` is the recording of both texts: counts add exactly, sums to rounding; languages that only one of
    them has are kept. Adding does not check that the texts are disjoint.

    Attributes:
        languages: K language tags.
        tokens: (K,) int64, the tokens that were counted (never BOS or padding).
        sums: by name of the statistic, (L, …, K): sums over those tokens; `active` is int64, the others float64.
        provenance: what it was made with; None if it came from counts alone.
        examples: each neuron's most active tokens, if they were asked for.
        uneven: how many neurons each layer has, where that differs; sums are 0 beyond.
        experts: of a native mixture of experts, how many each layer has and how many neurons each of them; (0, 0) where
            a layer is dense. Their neurons come first in a layer, expert by expert.
        conditional: whether means of neurons are over the tokens that reached their expert, not over all.
        units: what a row is of; heads in a recording that `of("heads")` gave.
    """

    languages: tuple[str, ...]
    tokens: Int64[Tensor, " languages"]
    sums: Mapping[str, Tensor]
    provenance: Provenance | None = None
    examples: Examples | None = None
    uneven: tuple[int, ...] | None = None
    experts: tuple[tuple[int, int], ...] | None = None
    conditional: bool = False
    units: Literal["neurons", "heads"] = "neurons"

    @classmethod
    def from_counts(
        cls,
        active: Any,
        tokens: Any,
        languages: Sequence[str],
        *,
        widths: Sequence[int] | None = None,
        **sums: Any,
    ) -> "Recording":
        """A recording from someone else's counts.

        Args:
            active: (L, N, K) integers: on how many tokens of each language the neuron is active.
            tokens: (K,) integers: how many tokens each language has.
            languages: K tags.
            widths: how many neurons each layer has, where layers differ; N is the widest, and all is 0 beyond.
            sums: further statistics by name, (L, N, K): `activation` and `hidden` are the sums of the two sites.

        Raises:
            NeuroglotError: shapes do not fit, or a count is not an integer from 0 to its language's tokens.
        """
        active, tokens = torch.as_tensor(active), torch.as_tensor(tokens)
        if active.ndim != 3 or tokens.shape != active.shape[2:] or len(languages) != len(tokens):
            raise NeuroglotError(
                f"active must be (layers, neurons, languages) and tokens (languages,) for {len(languages)} languages, "
                f"not {tuple(active.shape)} and {tuple(tokens.shape)}."
            )
        for name, counts in (("active", active), ("tokens", tokens)):
            if counts.is_floating_point() and not bool((counts == counts.round()).all()):
                raise NeuroglotError(f"{name} must be whole numbers (counts, not shares).")
        active, tokens = active.to(torch.int64), tokens.to(torch.int64)
        if bool((tokens < 1).any()) or bool((active < 0).any()) or bool((active > tokens).any()):
            raise NeuroglotError("Every language needs a token, and active must be from 0 to its language's tokens.")
        others = {name: torch.as_tensor(values, dtype=torch.float64) for name, values in sums.items()}
        for name, values in others.items():
            if name == RESIDUAL:
                if values.ndim != 3 or (values.shape[0], values.shape[2]) != (active.shape[0], active.shape[2]):
                    raise NeuroglotError(f"{name} must be (layers, stream, languages), not {tuple(values.shape)}.")
            elif values.shape != active.shape:
                raise NeuroglotError(f"{name} must be {tuple(active.shape)} as active is, not {tuple(values.shape)}.")
        uneven = given_widths(widths, [active, *(values for name, values in others.items() if name != RESIDUAL)])
        return cls(_tags(languages), tokens, {"active": active, **others}, uneven=uneven)

    @property
    def layers(self) -> int:
        """How many layers, L."""
        return self.active.shape[0]

    @property
    def neurons(self) -> int:
        """How many neurons a layer, N; of the widest, where they differ."""
        return self.active.shape[1]

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""
        return self.uneven or (self.neurons,) * self.layers

    @property
    def exists(self) -> Bool[Tensor, "layers neurons"]:
        """Which entries of a table (L, N) are neurons: all, unless layers differ in width."""
        return exists(self.widths)

    @property
    def active(self) -> Int64[Tensor, "layers neurons languages"]:
        """On how many tokens the activation is above zero."""
        return self.sum("active")

    def sum(self, statistic: str) -> Tensor:
        """The sum over tokens of a statistic, (L, …, K).

        Raises:
            NeuroglotError: it was not recorded.
        """
        self.check_recorded(statistic)
        return self.sums[statistic]

    def check_recorded(self, *statistics: str) -> None:
        """Refuse statistics that were not recorded.

        Raises:
            NeuroglotError: as said.
        """
        for statistic in statistics:
            if statistic not in self.sums:
                dense = "it is of a dense model, which has no router" if statistic == ROUTED else "record again with it"
                raise NeuroglotError(f"The recording has no {statistic!r}, only {', '.join(self.sums)}; {dense}.")

    def mean(self, statistic: str) -> Float64[Tensor, "layers *rest languages"]:
        """The mean over tokens of a statistic (`active`: the activation probability); a maximum stays as it is.

        Where the recording is `conditional`, an expert's neurons' is over the tokens that reached it, 0 where none did.
        """
        total = self.sum(statistic)
        if self.merge_of(statistic) != "sum":
            return total  # a highest or lowest value is no sum over tokens
        if self.conditional and total.shape == self.active.shape:
            return total / self.reached.clamp_min(1).to(torch.float64)
        return total / self.tokens.to(torch.float64)

    def merge_of(self, statistic: str) -> Merge:
        """How a statistic of two texts becomes that of both: all are sums but some that were registered."""
        own = {} if self.provenance is None else self.provenance.own
        return own[statistic].merge if statistic in own else "sum"

    def of(self, units: Literal["heads"]) -> "Recording":
        """The recording of other units than neurons, for the methods: a row an attention, a column a head.

        `active` counts the tokens on which a head gives more than the mean of its layer's; `activation`, `hidden` and
        `output` are the sums of what it gives, which zeroing it takes away. Gradients are there if they were recorded.
        Sets found in it are of heads: ablate them at the site `heads`.

        Raises:
            NeuroglotError: heads were not recorded.
        """
        if units != "heads":
            raise NeuroglotError(f"A recording is of neurons, and of heads if it has them, not of {units!r}.")
        given = self.sum(HEADS)
        prefix = f"{HEADS}_"
        sums = {name.removeprefix(prefix): each for name, each in self.sums.items() if name.startswith(prefix)}
        sums |= dict.fromkeys(("activation", "hidden", "output"), given)
        there = [int(row.any(-1).nonzero().max()) + 1 if bool(row.any()) else 0 for row in given]
        uneven = tuple(there) if len(set(there)) > 1 else None
        return Recording(self.languages, self.tokens, sums, self.provenance, None, uneven, units=units)

    @property
    def reached(self) -> Int64[Tensor, "layers neurons languages"]:
        """How many tokens each neuron was computed on: all, but those of an expert that it was not chosen for."""
        result = self.tokens.expand(self.active.shape).clone()
        for layer, (experts, width) in enumerate(self.experts or ()):
            if experts:
                routed = self.sum(ROUTED)[layer, :experts]
                result[layer, : experts * width] = routed.repeat_interleave(width, 0)
        return result

    def given_routing(self) -> "Recording":
        """The same statistics, with means of neurons over the tokens that reached their expert (*conditional* shares).

        Methods take *joint* shares, over all of a language's tokens, unless they are given this. A joint share is the
        conditional one times the share of tokens that reach the expert. A dense model's recording is refused.
        """
        if self.experts is None or ROUTED not in self.sums:
            raise NeuroglotError("This recording is of a dense model, which has no router; take joint shares.")
        return replace(self, conditional=True)

    @property
    def probabilities(self) -> Float64[Tensor, "layers neurons languages"]:
        """p[i, j, k]: the share of language k's tokens on which neuron j of layer i is active (LAPE, eq. 4)."""
        return self.mean("active")

    def frame(self) -> "pd.DataFrame":
        """A row a neuron and language: what a table or a figure of one's own begins with.

        Columns: layer (from 1, as the papers count), neuron (from 0, as in the tensors), language, tokens (counted in
        the language), probability, entropy (nats, of the neuron's probabilities normalised over the languages: the same
        in all its rows, NaN where it is active nowhere), and the mean of every other statistic of neurons, by its name.
        """
        import pandas as pd

        layers, neurons, count = self.active.shape
        spread = entropy(self.probabilities).unsqueeze(-1).expand(layers, neurons, count)
        columns = {"probability": self.probabilities, "entropy": spread}
        for name, values in self.sums.items():
            if name not in ("active", RESIDUAL) and not name.startswith(HEADS) and values.shape == self.active.shape:
                columns[name] = self.mean(name)
        place = np.arange(layers * neurons).repeat(count)
        table = pd.DataFrame(
            {
                "layer": place // neurons + 1,
                "neuron": place % neurons,
                "language": pd.Categorical.from_codes(
                    np.tile(np.arange(count), layers * neurons), pd.Index([*self.languages])
                ),
                "tokens": np.tile(self.tokens.numpy(), layers * neurons),
                **{name: values.flatten().numpy() for name, values in columns.items()},
            }
        )
        there = self.exists.flatten().repeat_interleave(count).numpy()
        return table if there.all() else table[there].reset_index(drop=True)

    def language_mean(self, language: str, statistic: str = "activation") -> Float64[Tensor, "layers neurons"]:
        """The mean of a statistic over one language's tokens: the values that steering raises neurons to.

        Of `residual` it is (L, width of the stream).
        """
        return self.select([language]).mean(statistic)[..., 0]

    def language_difference(self, language: str, statistic: str = "activation") -> Float64[Tensor, "layers neurons"]:
        """A language's mean less the mean of the other languages' means, each of which counts the same.

        Of `residual` it is (L, width of the stream): DiffMean, the direction of the language after every layer.

        Raises:
            NeuroglotError: there is no other language, or the language or the statistic was not recorded.
        """
        own = self.language_mean(language, statistic)
        others = [tag for tag in self.languages if tag != language_tag(language)]
        if not others:
            raise NeuroglotError(f"The recording has only {language}, so there is no mean of the others.")
        return own - self.select(others).mean(statistic).mean(-1)

    def select(self, languages: Sequence[str]) -> "Recording":
        """The recording of these languages only, in this order."""
        tags = _tags(languages)
        unknown = [tag for tag in tags if tag not in self.languages]
        if unknown:
            raise NeuroglotError(f"The recording has no {unknown[0]}; it has {', '.join(self.languages)}.")
        places = [self.languages.index(tag) for tag in tags]
        index = torch.tensor(places)
        sums = {name: values[..., index] for name, values in self.sums.items()}
        examples = None if self.examples is None else self.examples.select(places)
        return replace(self, languages=tags, tokens=self.tokens[index], sums=sums, examples=examples)

    def __add__(self, other: "Recording") -> "Recording":
        return Recording.merge([self, other]) if isinstance(other, Recording) else NotImplemented

    @classmethod
    def merge(cls, recordings: Iterable["Recording"]) -> "Recording":
        """The sum of recordings, added in their order; one at a time, so they may come from a generator.

        Raises:
            NeuroglotError: there is none, or they differ in model, tokenizer, block, shape or statistics.
        """
        order: dict[str, None] = {}
        tokens: dict[str, Tensor] = {}
        sums: dict[str, dict[str, Tensor]] = {}
        examples: dict[str, Examples] = {}
        first: Recording | None = None
        for recording in recordings:
            if first is None:
                first = recording
            first._check_addable(recording)
            for k, tag in enumerate(recording.languages):
                order[tag] = None
                if tag in tokens:
                    tokens[tag] += recording.tokens[k]
                    for name, total in sums[tag].items():
                        sums[tag][name] = merged(total, recording.sums[name][..., k], first.merge_of(name))
                else:
                    tokens[tag] = recording.tokens[k].clone()
                    sums[tag] = {name: values[..., k].clone() for name, values in recording.sums.items()}
                if recording.examples is not None:
                    some = recording.examples.select([k])
                    examples[tag] = examples[tag].merge(some) if tag in examples else some
        if first is None:
            raise NeuroglotError("There is no recording to merge.")
        return cls(
            tuple(order),
            torch.stack([tokens[tag] for tag in order]),
            {name: torch.stack([sums[tag].pop(name) for tag in order], dim=-1) for name in first.sums},
            first.provenance,
            Examples.stack([examples[tag] for tag in order]) if examples else None,
            first.uneven,
            first.experts,
            units=first.units,
        )

    def _check_addable(self, other: "Recording") -> None:
        differences = []
        if self.provenance and other.provenance:
            differences += self.provenance.differences(other.provenance)
        if set(self.sums) != set(other.sums):
            differences.append(f"statistics ({', '.join(self.sums)} against {', '.join(other.sums)})")
        how = [None if each.examples is None else (each.examples.k, each.examples.text) for each in (self, other)]
        if how[0] != how[1]:
            differences.append("examples kept of a neuron")
        if self.uneven != other.uneven or self.experts != other.experts or self.units != other.units:
            differences.append("neurons of each layer")
        if self.conditional or other.conditional:
            differences.append("what their means are over (add them before given_routing)")
        for name in sorted(set(self.sums) & set(other.sums)):
            mine, theirs = tuple(self.sums[name].shape[:-1]), tuple(other.sums[name].shape[:-1])
            if mine != theirs:
                differences.append(f"shape of {name} ({mine} against {theirs})")
        if differences:
            raise NeuroglotError(
                f"These recordings cannot be added, since they differ in {' and '.join(differences)}; record both in "
                "the same way."
            )

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file."""
        about: dict[str, Any] = {
            "languages": self.languages,
            "provenance": self.provenance.plain() if self.provenance else None,
        }
        if self.uneven is not None:
            about["widths"] = self.uneven
        if self.experts is not None:
            about["experts"] = self.experts
        if self.units != "neurons":
            about["units"] = self.units
        tensors = {"tokens": self.tokens, **self.sums}
        if self.examples is None:
            return save_tensors(path, KIND, 1, tensors, about)
        tensors |= {VALUES: self.examples.values, PLACES: self.examples.places}
        about["examples"] = {"shards": self.examples.shards, "text": self.examples.text}
        return save_tensors(path, KIND, VERSION, tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> "Recording":
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing, damaged or not a recording.
        """
        tensors, about = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            provenance = Provenance(**about["provenance"]) if about["provenance"] else None
            examples = None
            if "examples" in about:
                shards = tuple(tuple(names) for names in about["examples"]["shards"])
                examples = Examples(tensors.pop(VALUES), tensors.pop(PLACES), shards, about["examples"]["text"])
            uneven = tuple(about["widths"]) if about.get("widths") is not None else None
            experts = tuple((count, width) for count, width in about["experts"]) if about.get("experts") else None
            tags = _tags(about["languages"])
            units = about.get("units", "neurons")
            if units not in ("neurons", "heads"):
                raise ValueError(f"it is of {units!r:.40}")
            loaded = cls(tags, tensors.pop("tokens"), tensors, provenance, examples, uneven, experts, units=units)
            loaded._check()
            return loaded

    def _check(self) -> None:
        """Refuse sums that no pass over text can leave.

        Raises:
            ValueError: a shape does not fit the languages, a language has no token, a count is negative or above its
                language's tokens, a sum is not a number or of no neuron, or an example is nowhere.
        """
        count = len(self.languages)
        if self.tokens.dtype != torch.int64 or tuple(self.tokens.shape) != (count,) or bool((self.tokens < 1).any()):
            raise ValueError(f"tokens are not {count} whole numbers above 0")
        check_sums(self.sums, self.tokens, count, self.uneven)
        if self.experts is not None:
            wide = [count * width for count, width in self.experts]
            routed = self.sums[ROUTED]
            if len(wide) != len(routed) or any(most > own for most, own in zip(wide, self.widths, strict=True)):
                raise ValueError("its experts are not those of its layers")
            if "active" in self.sums and bool((self.active > self.reached).any()):
                raise ValueError("a neuron is active on more tokens than reached its expert")
        if self.examples is not None:
            if len(self.examples.shards) != count or len(self.examples.values) != count:
                raise ValueError(f"its examples are not of {count} languages")
            self.examples.check()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{tag} {int(n):,}" for tag, n in zip(self.languages, self.tokens, strict=True))
        return f"<recording of {self.layers} × {self.neurons} {self.units}; tokens: {sizes}>"


def _tags(languages: Sequence[str]) -> tuple[str, ...]:
    tags = tuple(language_tag(tag) for tag in languages)
    if len(set(tags)) < len(tags):
        raise NeuroglotError(f"A language is named twice in {', '.join(languages)}.")
    return tags


EXPERTS = "experts@"
RESIDUAL = "residual"
"""What a recording calls the sums of the residual stream that leaves each layer, (L, width, K)."""
HEADS, HEADS_ACTIVE = "heads", "heads_active"  # whatever else is of heads begins alike, such as heads_attribution
"""Sums of what each attention head gives, and on how many tokens it gives more than the mean of its layer's heads."""
ROUTED = "routed"  # (L, E, K) of a native mixture of experts
FOLDS = "routed.folds"  # the same in disjoint groups of blocks, (L, E, groups, K), from which intervals are drawn
