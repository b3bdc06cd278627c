"""The perplexity-change matrix as a value: what was measured, its changes, intervals and contrasts."""

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuroglot.edit.conditions import INTACT
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.whole import check_losses, check_perplexities, check_sizes
from neuroglot.evaluate.likelihood.perplexity import increase_of, perplexity_of
from neuroglot.stats import Contrast, contrast, mean_interval
from neuroglot.storage.results import JsonResult

__all__ = ["Perturbation"]


@dataclass
class Perturbation(JsonResult):
    """Perplexities of a model, intact and with neurons off.

    Attributes:
        intact: measured language → perplexity of the intact model.
        off: whose neurons are off → measured language → perplexity.
        random: seed → measured language → perplexity with random neurons off.
        sizes: whose neurons → how many; `random` is one of them.
        tokens: measured language → how many tokens were predicted.
        block: tokens a block.
        matched: seed → measured language → perplexity with random neurons off, as many as *that* language's own.
        settings: digests of what decides them: the model, the neurons, the text.
        losses: `intact`, `off`, `random` or `matched` → whose neurons, or the seed → measured language → nats a token
            of each block. What an earlier version measured has none of it, and so no intervals.
    """

    remedy = "run perturb again"

    intact: dict[str, float]
    off: dict[str, dict[str, float]]
    random: dict[str, dict[str, float]]
    sizes: dict[str, int]
    tokens: dict[str, int]
    block: int
    settings: dict[str, str] = field(default_factory=dict)
    matched: dict[str, dict[str, float]] = field(default_factory=dict)
    losses: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def check_whole(self) -> None:
        """Refuse what cannot have been measured; rows may be missing, as they are while it is measured."""
        check_perplexities(INTACT, self.intact, self.tokens)
        check_sizes("sizes", self.sizes, (*self.off, "random"))
        if not self.intact or {*self.intact} != {*self.tokens} or min(self.tokens.values()) < 1 or self.block < 1:
            raise ValueError("it does not say how much text of each language was read")
        for name, rows in (("off", self.off), ("random", self.random), ("matched", self.matched)):
            for key, row in rows.items():
                check_perplexities(f"{name} {key}", row, self.intact)
        intact = self.losses.get(INTACT, {}).get("", {})
        for name, kept in self.losses.items():
            for key, cells in kept.items():
                check_losses(f"{name} {key}", cells, intact)

    @property
    def units(self) -> str:
        """What was off: neurons or heads."""
        return self.settings.get("units", "neurons")

    @property
    def change(self) -> pd.DataFrame:
        """Relative change of perplexity: row = whose neurons are off, column = language measured. 1.0 is +100 %."""
        return self._changes("off")

    @property
    def random_change(self) -> pd.DataFrame:
        """The same for random neurons: rows `mean` and `std` (sample standard deviation over seeds)."""
        return self._spread("random")

    @property
    def matched_change(self) -> pd.DataFrame:
        """The same for random neurons as many as each column's language has itself; empty if not measured."""
        return self._spread("matched")

    def _changes(self, kind: str) -> pd.DataFrame:
        """The relative changes of one kind of rows; where both perplexities are infinite, by the losses of blocks."""
        rows: dict[str, dict[str, float]] = getattr(self, kind)
        change = _table(rows) / pd.Series(self.intact) - 1 if rows else pd.DataFrame()
        for tag in (tag for tag, value in self.intact.items() if math.isinf(value) and tag in change):
            for key in (key for key, row in rows.items() if tag in row):
                blocks = self.losses.get(kind, {}).get(key, {}).get(tag)
                change.loc[key, tag] = math.nan if blocks is None else increase_of(_mean(self.nats(key, tag, kind)))
        return change

    def _spread(self, kind: str) -> pd.DataFrame:
        change = self._changes(kind)
        with np.errstate(over="ignore"):  # of an infinite one none is known, nor of one whose square is infinite
            spread = change.where(np.isfinite(change)).std(ddof=1, skipna=False)
        return pd.DataFrame({"mean": change.mean(), "std": spread.where(np.isfinite(spread))}).T

    @property
    def diagonal_dominant(self) -> pd.Series:
        """Whether each language's row is diagonal-dominant: no cell is larger than the one on target."""
        change = self.change
        own = [tag for tag in change.index if tag in change.columns]
        rows = {tag: change.loc[tag].dropna() for tag in own}
        return pd.Series({tag: bool(len(row) and row.idxmax() == tag) for tag, row in rows.items()}, dtype=bool)

    @property
    def on_target(self) -> pd.DataFrame:
        """What each language's neurons do to that language, beside random ones: a row a language.

        Columns: neurons; change (relative, of the perplexity) and its 95 % interval over blocks, low and high; random
        and random_std, mean and sample standard deviation over seeds of the baseline (size-matched where it was
        measured); above and above_low, above_high: nats a token that are lost beyond the mean of the random rows, with
        the 95 % interval over the same blocks. What cannot be known is NaN: an interval from one block, a deviation
        from one seed.
        """
        kind = "matched" if self.matched else "random"
        rival = self.matched_change if self.matched else self.random_change
        rows = {}
        for tag in self.diagonal_dominant.index:
            low, high = self.interval("off", tag, tag)
            above = self._above(kind, tag)
            ends = (math.nan, math.nan) if above is None else tuple(float(end) for end in mean_interval(above))
            known = tag in rival
            rows[tag] = {
                "neurons": self.sizes[tag],
                "change": float(self.change.loc[tag, tag]),
                "low": low,
                "high": high,
                "random": rival.loc["mean", tag] if known else math.nan,
                "random_std": rival.loc["std", tag] if known else math.nan,
                "above": math.nan if above is None else float(above.mean()),
                "above_low": ends[0],
                "above_high": ends[1],
            }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("language")

    def _above(self, kind: str, tag: str) -> Tensor | None:
        """Of each block, the loss with a language's own neurons off less the mean of the random rows'."""
        own = self._blocks("off", tag, tag)
        rivals = [row[tag] for row in self.losses.get(kind, {}).values() if tag in row]
        if own is None or not rivals:
            return None
        return torch.tensor(own, dtype=torch.float64) - torch.tensor(rivals, dtype=torch.float64).mean(0)

    def _blocks(self, kind: str, key: str, tag: str) -> list[float] | None:
        return self.losses.get(kind, {}).get(key, {}).get(tag)

    def nats(self, off: str, measured: str, kind: str = "off") -> list[float]:
        """Nats a token that each block of a language loses.

        Args:
            off: whose neurons are off; the seed of a random row.
            measured: the language of the blocks.
            kind: `off`, `random` or `matched`.

        Raises:
            NeuroglotError: that cell was not measured, or by an earlier version, which kept no losses of blocks.
        """
        before, after = self._blocks(INTACT, "", measured), self._blocks(kind, off, measured)
        if before is None or after is None:
            if measured in getattr(self, kind).get(off, {}):
                raise NeuroglotError("An earlier version measured this and kept no losses of blocks; measure it again.")
            raise NeuroglotError(f"What {off} does to {measured} was not measured; rows are {', '.join(self.off)}.")
        return [now - then for now, then in zip(after, before, strict=True)]

    def interval(self, kind: str, off: str, measured: str) -> tuple[float, float]:
        """The 95 % bootstrap interval over blocks of a cell's relative change; NaN where it is not known.

        Each block is compared with itself in the intact model. One block has no interval, nor has what an earlier
        version measured.
        """
        if self._blocks(kind, off, measured) is None or self._blocks(INTACT, "", measured) is None:
            return math.nan, math.nan
        low, high = mean_interval(torch.tensor(self.nats(off, measured, kind), dtype=torch.float64))
        return perplexity_of(float(low)) - 1, perplexity_of(float(high)) - 1

    def intervals(self) -> dict[tuple[str, str, str], tuple[float, float]]:
        """All that `interval` gives and that is known, by its arguments; a column at once."""
        found = {}
        for tag in self.intact:
            cells = [
                (kind, key, tag)
                for kind in ("off", "random", "matched")
                for key, row in self.losses.get(kind, {}).items()
                if tag in row and self._blocks(INTACT, "", tag) is not None
            ]
            if cells:
                changes = torch.tensor([self.nats(key, tag, kind) for kind, key, _ in cells], dtype=torch.float64)
                for cell, low, high in zip(cells, *(ends.tolist() for ends in mean_interval(changes)), strict=True):
                    found[cell] = (perplexity_of(low) - 1, perplexity_of(high) - 1)
        return found

    def contrast(self, off: str, more: str, less: str, *, level: float = 0.95, seed: int = 0) -> Contrast:
        """Does this set do more to French than to Spanish?

        The effects are nats a token. The blocks of two languages are different texts, so they are permuted between the
        two, and drawn from each by itself.

        Args:
            off: whose neurons are off.
            more: the language that should lose more.
            less: the language that should lose less.
            level: of the interval.
            seed: of the permutations and the bootstrap.

        Raises:
            NeuroglotError: a cell was not measured, or an earlier version kept no losses of blocks.
        """
        return contrast(self.nats(off, more), self.nats(off, less), level=level, seed=seed)

    def frame(self) -> pd.DataFrame:
        """Everything as one long table.

        Columns: off, neurons, seed, measured, tokens, perplexity, change (relative), low and high (its 95 % bootstrap
        interval over blocks, NaN where it is not known).
        """
        named: list[tuple[str, str, dict[str, float]]] = [(INTACT, "", self.intact)]
        named += [("off", off, values) for off, values in self.off.items()]
        named += [(kind, seed, row) for kind in ("random", "matched") for seed, row in getattr(self, kind).items()]
        ends = self.intervals()
        changes = {kind: self._changes(kind) for kind in ("off", "random", "matched")}
        rows = []
        for kind, key, values in named:
            off = key if kind == "off" else kind
            for tag, value in values.items():
                low, high = ends.get((kind, key, tag), (math.nan, math.nan))
                rows.append(
                    {
                        "off": off,
                        "neurons": self.sizes.get(tag if kind == "matched" else off, 0),
                        "seed": "" if kind == "off" else key,
                        "measured": tag,
                        "tokens": self.tokens[tag],
                        "perplexity": value,
                        "change": changes[kind].loc[key, tag] if kind in changes else 0.0,
                        "low": low,
                        "high": high,
                    }
                )
        return pd.DataFrame(rows)

    table = frame  # as earlier scripts call it


def _table(rows: dict[str, dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(rows, orient="index")


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
