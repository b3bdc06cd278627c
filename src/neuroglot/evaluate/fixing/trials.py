"""Remedies tried: answers under each, what is wrong with them, and what each costs in perplexity."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.edit.recipes import Recipe
from neuroglot.evaluate.fixing.remedies import HeadRows, Remedy
from neuroglot.evaluate.likelihood.perplexity import increase_of, mean_nll
from neuroglot.evaluate.steering.answers import degenerate
from neuroglot.evaluate.steering.confusion import WORD_LEVEL, Identify, language_confusion
from neuroglot.generation.engine import generate
from neuroglot.generation.prompts import said_around
from neuroglot.generation.settings import Generation
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import wilson
from neuroglot.storage.results import ResultCache, digest_of_settings
from neuroglot.storage.sealed import digest_of_bytes

__all__ = ["INTACT", "Trials"]

INTACT = "intact"
QUEUE = 24
"""Recipes whose answers are written side by side."""
SHORTER = 0.9
"""Answers that can be judged, as a share of those of the intact model, at least: silence is no cure."""
REPETITION = 0.1
"""By so much the share of degenerate answers may rise."""


@dataclass
class Trials:
    """What all remedies share: the model, the prompts' settings, and what was measured before."""

    model: Model
    blocks: Mapping[str, Int[Tensor, "blocks block"]]
    generation: Generation
    identify: Identify | None
    words: Sequence[str] | None
    cache: ResultCache
    max_cost: float
    progress: bool
    avoided: tuple[str, ...] = ()

    def asked(self, half: Mapping[str, Mapping[str, Sequence[str]]]) -> pd.DataFrame:
        """A row a prompt: source, language, prompt; the first of every source and language come first."""
        rows = [
            {"place": place, "source": source, "language": tag, "prompt": text}
            for source, languages in half.items()
            for tag, texts in languages.items()
            for place, text in enumerate(texts)
        ]
        table = pd.DataFrame(rows).sort_values("place", kind="stable")
        return table.drop(columns="place").reset_index(drop=True)

    def answers(self, remedy: Remedy | None, asked: pd.DataFrame) -> pd.DataFrame:
        """The prompts with answers and what language confusion says of each."""
        return self.judged(asked.assign(answer=self.written([remedy], asked)[0]))

    def written(self, remedies: Sequence[Remedy | None], asked: pd.DataFrame) -> list[list[str]]:
        """The answers under each remedy, those under recipes in one queue; each is kept by itself."""
        prompts = list(asked["prompt"])
        abouts = [self._about(remedy, prompts) for remedy in remedies]
        digests = [digest_of_settings(about) for about in abouts]
        found = {digest: self.cache.find(digest, lambda kept: "answers" in kept) for digest in digests}
        missing = [place for place, digest in enumerate(digests) if found[digest] is None]
        recipes = [place for place in missing if not isinstance(_change(remedies[place]), HeadRows)]
        queues = [recipes[first : first + QUEUE] for first in range(0, len(recipes), QUEUE)]
        for queue in [*queues, *([place] for place in missing if place not in recipes)]:
            change = _change(remedies[queue[0]])
            alone = change if isinstance(change, HeadRows) else None
            with nullcontext() if alone is None else alone.applied(self.model):
                made = generate(
                    self.model, prompts * len(queue), **self.generation.model_dump(),
                    recipes=[None if alone else _change(remedies[place]) for place in queue for _ in prompts],
                    streams=[number for _ in queue for number in range(len(prompts))],
                )  # fmt: skip
            for number, place in enumerate(queue):
                answers = made[number * len(prompts) : (number + 1) * len(prompts)]
                found[digests[place]] = self.cache.keep(digests[place], {**abouts[place], "answers": answers})
        return [list((found[digest] or {})["answers"]) for digest in digests]

    def _about(self, remedy: Remedy | None, prompts: Sequence[str]) -> dict[str, Any]:
        """What answers depend on."""
        return {
            "model": self.model.fingerprint,
            "dtype": str(self.model.network.dtype),
            "remedy": None if remedy is None else remedy.digest,
            "prompts": list(prompts),
            "generation": self.generation.model_dump(),
            **said_around(self.model, self.generation.chat),
        }

    def judged(self, answers: pd.DataFrame) -> pd.DataFrame:
        """The same with judged, line_pass, word_pass (None where not defined), lines, detected and degenerate."""
        parts = []
        for tag, group in answers.groupby("language", sort=False):
            result = language_confusion(list(group["answer"]), str(tag), words=self.words, identify=self.identify)
            checks = result.checks
            columns: dict[str, Any] = {
                "judged": [check.judged for check in checks],
                "line_pass": [check.judged and not check.wrong_lines for check in checks],
                "word_pass": [check.passes if tag in WORD_LEVEL else None for check in checks],
                "lines": [check.lines for check in checks],
                "detected": [[found or "" for found in check.detected] for check in checks],
                "degenerate": [degenerate(answer) for answer in group["answer"]],
            }
            parts.append(group.assign(**columns))
        return pd.concat(parts).sort_index()

    def costs(self, tried: Sequence[Remedy]) -> dict[str, dict[str, float]]:
        """Of each remedy, by digest, the relative change of perplexity in each language wanted."""
        before = {tag: self._nats(None, tag) for tag in self.blocks}
        found: dict[str, dict[str, float]] = {}
        measured: dict[str, dict[str, float]] = {}
        with progress_bar("costs", len(tried), unit="remedies", shown=self.progress) as advance:
            for remedy in tried:
                read = remedy.on_every_token()  # text that nobody wrote counts as generated, or some would be free
                if read.digest not in measured:
                    measured[read.digest] = {
                        tag: increase_of(self._nats(read, tag) - nats) for tag, nats in before.items()
                    }
                found[remedy.digest] = measured[read.digest]
                advance(1, remedy.method)
        return found

    def perplexity(self) -> dict[str, float]:
        """Of the intact model."""
        return {tag: math.exp(self._nats(None, tag)) for tag in self.blocks}

    def _nats(self, remedy: Remedy | None, tag: str) -> float:
        blocks = self.blocks[tag]
        about = {
            "model": self.model.fingerprint,
            "dtype": str(self.model.network.dtype),
            "remedy": None if remedy is None else remedy.digest,
            "text": digest_of_bytes(f"{tuple(blocks.shape)}".encode(), blocks.contiguous().numpy().tobytes()),
        }
        digest = digest_of_settings(about)
        kept = self.cache.find(digest, lambda found: "nats" in found)
        if kept is None:
            with nullcontext() if remedy is None else remedy.applied(self.model):
                kept = self.cache.keep(digest, {**about, "nats": mean_nll(self.model, blocks, tag)})
        return float(kept["nats"])

    def row(
        self,
        half: str,
        rung: int,
        remedy: Remedy | None,
        answers: pd.DataFrame,
        cost: Mapping[str, float],
        intact: pd.DataFrame,
    ) -> dict[str, Any]:
        """A row of the table; `intact` are the intact model's answers to the same prompts."""
        costliest = max(cost, key=lambda tag: cost[tag], default="")
        change = cost.get(costliest, 0.0)
        rates = _rates(answers, self.avoided)
        within = (
            change <= self.max_cost
            and rates["judged"] >= SHORTER * int(intact["judged"].sum())
            and rates["degenerate"] <= float(intact["degenerate"].mean()) + REPETITION
        )
        named = {"half": half, "rung": rung, "method": INTACT if remedy is None else remedy.method}
        named |= {"setting": "" if remedy is None else remedy.words}
        return named | rates | {"perplexity_change": change, "costliest": costliest, "within": within}

    def by_language(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Rates by condition, source and language."""
        rows = [
            dict(zip(("condition", "source", "language"), key, strict=True)) | _rates(group, self.avoided)
            for key, group in answers.groupby(["condition", "source", "language"], sort=False)
        ]
        return pd.DataFrame(rows)


def _rates(answers: pd.DataFrame, avoided: Sequence[str]) -> dict[str, Any]:
    judged, passes = int(answers["judged"].sum()), int(answers["line_pass"].sum())
    low, high = wilson(torch.tensor(passes), torch.tensor(judged)) if judged else (math.nan, math.nan)
    words = answers.loc[answers["line_pass"].astype(bool), "word_pass"].dropna()
    return {
        "answers": len(answers),
        "judged": judged,
        "line_passes": passes,
        "line_pass_rate": passes / judged if judged else math.nan,
        "line_low": float(low),
        "line_high": float(high),
        "word_pass_rate": float(words.astype(float).mean()) if len(words) else math.nan,
        "slipped": float(answers["detected"].map(lambda found: bool({*found} & {*avoided})).mean()),
        "degenerate": float(answers["degenerate"].mean()),
    }


def _change(remedy: Remedy | None) -> Recipe | HeadRows | None:
    return None if remedy is None else remedy.change
