"""A model for one language, measured: cut to sizes, healed, and its rivals.

    python benchmarks/shrink.py --model gemma3-270m --language fr --text texts/ --out out/ [--parts sizes,ffn]

Parts, a table each, written after every row as CSV and JSON:

- `sizes`: bits a character on held-out text at shares of all parameters: vocabulary, neurons, re-fit, healing.
- `ffn`: perplexity with 75 % of the neurons, the vocabulary untouched.

`low` and `high` are the 95 % interval of `times`, the quotient with the intact model: a bootstrap over pieces of 2,000
characters, or over blocks. `benchmarks/healing.py` has the controls of healing.

No row is begun after --seconds; the most important ones come first.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import neuroglot as ng
from neuroglot.artifacts.widths import padded
from neuroglot.evaluate.likelihood.bits import bits_by_piece
from neuroglot.pruning.budget import magnitudes, neurons_within, random_like
from neuroglot.pruning.checkpoint import cut
from neuroglot.pruning.moments import hidden_moments
from neuroglot.pruning.saliences import keep_within, removal_order
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import language_counts
from neuroglot.run.shrink_plan import Fit, Plan, ShrinkSettings, plan_cut
from neuroglot.run.shrinking import heal
from neuroglot.stats import mean_interval, ratio_interval


class Table:
    """Rows that are on disk as soon as they are there."""

    def __init__(self, path: Path, about: dict[str, object], limit: float):
        self.path, self.about, self.rows = path, about, []
        self.started, self.limit = time.perf_counter(), limit

    @property
    def late(self) -> bool:
        """Whether no further row is to begin."""
        return time.perf_counter() - self.started > self.limit

    def add(self, **row: object) -> None:
        """Add a row, and write all of them."""
        row["at"] = round(time.perf_counter() - self.started, 1)
        self.rows.append(row)
        print(" ".join(f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        self.path.with_suffix(".json").write_text(json.dumps({**self.about, "rows": self.rows}, indent=1) + "\n")
        pd.DataFrame(self.rows).to_csv(self.path.with_suffix(".csv"), index=False)


class Bench:
    """A model, its text, and what the parts share."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.language = options, options.language
        device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = ng.load_model(options.model, dtype="float32", device=device)
        self.fitted, self.held_out = ng.load_corpus(options.text).split(5)
        self.documents = self.fitted[self.language]
        counts = language_counts(self.model, self.documents, self.language)
        self.available = int(counts.sum())
        self.heal_tokens = min(options.heal, options.epochs * self.available)
        self.parameters = size(self.model.network).parameters
        self.intact: torch.Tensor | None = None
        self.scratch = Path(tempfile.mkdtemp(dir=options.scratch))
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.about = {
            "model": options.model, "language": self.language, "device": name, "fitted tokens": self.available,
            "heal tokens": self.heal_tokens, "learning rate": options.rate, "characters": options.characters,
        }  # fmt: skip

    def table(self, part: str) -> Table:
        """An empty one."""
        path = self.options.out / f"{Path(self.options.model).stem}-{self.language}-{part}"
        return Table(path, self.about, self.options.seconds)

    def settings(self, share: float, **how: object) -> ShrinkSettings:
        """Of a size."""
        o = self.options
        usual = {"heal": self.heal_tokens, "at_once": o.at_once, "tokens": o.tokens, "characters": o.characters}
        usual |= {"learning_rate": o.rate, "batch": o.batch, "block": o.block}
        return ShrinkSettings(share=share, **usual | how)

    def whole(self) -> ShrinkSettings:
        """Of a healing with all of the vocabulary."""
        tokens = min(self.heal_tokens, self.options.heal_ffn)
        return self.settings(0.75, heal=tokens, at_once=self.options.at_once_whole)

    def bits(self, model: ng.Model) -> dict[str, float]:
        """A character of held-out text, and over those of the intact model."""
        found = bits_by_piece(model, self.held_out[self.language], self.language,
                              characters=self.options.characters)  # fmt: skip
        if self.intact is None:
            self.intact = found.pieces
            self.about |= {"held-out characters": found.characters, "pieces": len(found.pieces)}
        low, high = ratio_interval(found.pieces, self.intact)
        times = float(found.pieces.sum() / self.intact.sum())
        return {"bits": found.per_character, "times": times, "low": low, "high": high}

    def fit(self, plan: Plan) -> Fit:
        """On the fitted text."""
        return plan.fit(self.model, self.fitted, self.language, self.options.tokens)

    def healed(self, plan: Plan, fit: Fit | None, settings: ShrinkSettings) -> ng.Model:
        """The cut model after training."""
        with plan.cut(self.model, fit):
            self.model.save(self.scratch / "cut")
        out = self.scratch / "healed"
        shutil.rmtree(out, ignore_errors=True)
        return heal(self.model, self.scratch / "cut", plan.ids, self.documents, self.language, settings, out,
                    progress=False)  # fmt: skip

    def whole_plan(self, keep: torch.Tensor) -> Plan:
        """Of neurons alone."""
        return Plan(np.arange(self.model.vocabulary), keep, None, [])

    def sizes(self) -> None:
        """Bits a character at shares of all parameters."""
        table = self.table("sizes")
        done: list[tuple[float, Plan, Fit, dict[str, object]]] = []

        def add(share: float, what: str, parameters: int, model: ng.Model, **more: object) -> None:
            measured = self.bits(model)
            table.add(share=share, what=what, parameters=parameters, of_all=parameters / self.parameters, **measured,
                      **more)  # fmt: skip

        def row(share: float, name: str, plan: Plan, fit: Fit | None, kept: dict[str, object]) -> None:
            with plan.cut(self.model, fit):
                add(share, name, size(self.model.network).parameters, self.model, **kept)

        def heal_row(share: float, name: str, plan: Plan, fit: Fit | None, settings: ShrinkSettings,
                     kept: dict[str, object]) -> None:  # fmt: skip
            began = time.perf_counter()
            healed = self.healed(plan, fit, settings)
            spent = time.perf_counter() - began
            add(share, name, size(healed.network).parameters, healed, **kept, healing_s=spent)

        add(1.0, "intact", self.parameters, self.model)
        for share in self.options.sizes:
            if table.late:
                break
            settings = self.settings(share)
            plan = plan_cut(self.model, self.fitted, self.language, settings, progress=False)
            for tried in plan.tried:
                table.add(share=share, what="tried on fitted text", **tried)
            kept = kept_by(plan)
            if plan.prunes(self.model):
                row(share, "random", plan.random(self.model, 0), None, kept)
                row(share, "magnitude", plan, None, kept)
            else:
                row(share, "vocabulary", plan, None, kept)
            fit = self.fit(plan)
            if plan.prunes(self.model):
                row(share, "refit", plan, fit, kept)
            heal_row(share, "healed", plan, fit, settings, kept)
            done.append((share, plan, fit, kept))
        for share, plan, fit, kept in done:  # learns the intact model alone, and not the text
            if not table.late:
                heal_row(share, "healed, teacher alone", plan, fit, self.settings(share, distil=1.0), kept)
        for share, plan, _, kept in done:
            settings = self.settings(share)
            if plan.heads is not None and not table.late:
                other = plan_cut(self.model, self.fitted, self.language, self.settings(share, heads=False),
                                 progress=False)  # fmt: skip
                refitted = self.fit(other)
                row(share, "refit, all heads", other, refitted, kept_by(other))
                heal_row(share, "healed, all heads", other, refitted, settings, kept_by(other))
            if plan.prunes(self.model) and not table.late:
                drawn = plan.random(self.model, 0)
                refitted = self.fit(drawn)
                row(share, "refit, random", drawn, refitted, kept)
                heal_row(share, "healed, random", drawn, refitted, settings, kept)
            if plan.prunes(self.model) and not table.late:
                heal_row(share, "healed, magnitude without refit", plan, None, settings, kept)
            if not bool(plan.keep[self.model.exists].all()) and not table.late:
                best = neurons_within(self.scores(), self.model.widths, int(plan.keep.sum()), even=False)
                other = replace(plan, keep=best)
                refitted = self.fit(other)
                row(share, "refit, uneven widths", other, refitted, kept)
                heal_row(share, "healed, uneven widths", other, refitted, settings, kept)

    def scores(self) -> torch.Tensor:
        """Magnitudes on the fitted text."""
        read = hidden_moments(self.model, self.documents, self.language, tokens=self.options.tokens, progress=False)
        return magnitudes(self.model, read)

    def losses(self, model: ng.Model, languages: list[str], corpus: ng.Corpus | None = None) -> dict[str, torch.Tensor]:
        """By language, of blocks of held-out text, or of another."""
        corpus = (self.held_out if corpus is None else corpus).select(languages)
        found = ng.evaluate.block_losses(
            model, corpus, tokens=self.options.measured, block=self.options.block, progress=False
        )
        return {tag: torch.tensor(rows["nats"].to_numpy()) for tag, rows in found.groupby("language")}

    def ffn(self) -> None:
        """Perplexity with 75 % of the neurons."""
        table = self.table("ffn")
        model, exists = self.model, self.model.exists
        count = round(0.75 * int(exists.sum()))
        intact = self.losses(model, [self.language])[self.language]
        settings = self.whole()

        def add(what: str, some: ng.Model) -> None:
            found = self.losses(some, [self.language])[self.language]
            table.add(what=what, perplexity=float(found.mean().exp()), **times(found, intact), blocks=len(intact))

        def refitted(what: str, keep: torch.Tensor, *, heal: bool) -> None:
            plan = self.whole_plan(keep)
            fit = self.fit(plan)
            with plan.cut(model, fit):
                add(f"refit, {what}", model)
            if heal and not table.late:
                add(f"healed, {what}", self.healed(plan, fit, settings))

        add("intact", model)
        moments = list(hidden_moments(model, self.documents, self.language, tokens=self.options.tokens, progress=False))
        scores = magnitudes(model, moments)
        keeps = {f"{widths}": neurons_within(scores, model.widths, count, even=widths == "even")
                 for widths in ("even", "uneven")}  # fmt: skip
        for widths, keep in keeps.items():
            with cut(model, random_like(keep, exists, 0)):
                add(f"random, {widths}", model)
            with cut(model, keep):
                add(f"magnitude, {widths}", model)
            refitted(widths, keep, heal=True)
        refitted("random, even", random_like(keeps["even"], exists, 0), heal=True)
        if table.late:
            return
        for name, keep in self.frequent(count).items():  # Liu et al. 2024, Tables 2 and 9; Figure 5
            with cut(model, keep):
                add(name, model)
            refitted(name, keep, heal=False)
        orders = [removal_order(ffn.down_columns, of) for ffn, of in zip(model.ffns, moments, strict=True)]
        refitted("surgeon, uneven", keep_within(orders, count), heal=False)
        places = padded([order.places() for order in orders])  # the last to go is the highest
        refitted("surgeon, even", neurons_within(places, model.widths, count, even=True), heal=False)

    def frequent(self, count: int) -> dict[str, torch.Tensor]:
        """The neurons of so many experts that are activated most often in the language: of all, and of each layer."""
        o, model = self.options, self.model
        partition = ng.experts.partition(model, experts=o.experts, progress=False)
        counted = ng.record(model, self.fitted.select([self.language]), tokens=o.recorded, block=o.block,
                            partition=partition, top=(0.1,), progress=False)  # fmt: skip
        frequency = ng.experts.frequencies(counted)[0]
        share = count / int(model.exists.sum())
        least = float(frequency.flatten().quantile(1 - share))
        return {
            "frequent experts": partition.neurons(ng.experts.keep_threshold(frequency, least)),
            "frequent experts of each layer": partition.neurons(ng.experts.keep_share(frequency, share)),
        }


def kept_by(plan: Plan) -> dict[str, object]:
    """What a plan leaves."""
    heads = {} if plan.heads is None else {"heads": int(plan.heads[0].sum())}
    return {"tokens": len(plan.ids), "neurons": int(plan.keep.sum()), **heads}


def times(after: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    """Of perplexities, with an interval over blocks."""
    low, high = mean_interval(after - before)
    return {"times": float((after - before).mean().exp()), "low": float(low.exp()), "high": float(high.exp())}


def options(about: str, parts: str, *, sizes: list[float]) -> argparse.ArgumentParser:
    """What every part takes, with the parts and sizes of one benchmark."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--language", default="fr")
    parser.add_argument("--text", required=True, help="a directory of {language}.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=parts)
    parser.add_argument("--sizes", type=float, nargs="*", default=sizes)
    parser.add_argument("--seconds", type=float, default=100, help="begin no row of a part later than this")
    parser.add_argument("--heal", type=int, default=1_500_000, help="tokens")
    parser.add_argument("--epochs", type=int, default=4, help="times through the text at most")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=16, help="blocks a step")
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=16, help="blocks a pass, with a small vocabulary")
    parser.add_argument("--at-once-whole", type=int, default=4, help="blocks a pass, with all of the vocabulary")
    parser.add_argument("--tokens", type=int, default=60_000, help="of the re-fit")
    parser.add_argument("--characters", type=int, default=200_000, help="held out, for bits a character")
    parser.add_argument("--measured", type=int, default=30_000, help="held-out tokens, for perplexity")
    parser.add_argument("--device")
    parser.add_argument("--scratch", help="where checkpoints are written and removed")
    return parser


def work(kind: type[Bench], options: argparse.Namespace) -> None:
    """Measure the parts that were asked for."""
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    bench = kind(options)
    print(f"opened in {time.perf_counter() - began:.1f} s: {bench.about}", flush=True)
    try:
        for part in options.parts.split(","):
            getattr(bench, part)()
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)


def main() -> None:
    parser = options(__doc__.splitlines()[0], "sizes,ffn", sizes=[0.33, 0.4, 0.5])
    parser.add_argument("--heal-ffn", type=int, default=500_000, help="tokens, with all of the vocabulary")
    parser.add_argument("--recorded", type=int, default=200_000, help="tokens, to count experts")
    parser.add_argument("--experts", type=int, default=256, help="a layer, for the rows of frequent ones")
    work(Bench, parser.parse_args())


if __name__ == "__main__":
    main()
