"""A model for one language, measured: cut to sizes, healed, and its rivals; and training only a language's neurons.

    python benchmarks/shrink.py --model gemma3-270m --language fr --text texts/ --out out/ [--parts sizes,ffn,only]

Parts, a table each, written after every row as CSV and JSON:

- `sizes`: bits a character on held-out text at shares of all parameters: vocabulary, neurons, re-fit, healing.
- `ffn`: perplexity with 75 % of the neurons, the vocabulary untouched.
- `only`: perplexity by language after tuning on one: its neurons alone, as many random ones, an adapter, all weights.

`low` and `high` are the 95 % interval of `times`, the quotient with the intact model: a bootstrap over pieces of 2,000
characters, or over blocks.

No row is begun after --seconds; the most important ones come first.
"""

import argparse
import json
import shutil
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

import neuroglot as ng
from neuroglot.artifacts.widths import padded
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.evaluate.likelihood.bits import bits_by_piece
from neuroglot.models.architecture.ffn import is_matrix
from neuroglot.pruning.budget import magnitudes, neurons_within, random_like
from neuroglot.pruning.checkpoint import cut, may_gain_biases
from neuroglot.pruning.compensation import compensated
from neuroglot.pruning.moments import hidden_moments
from neuroglot.pruning.saliences import Order, keep_within, removal_order
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import language_counts
from neuroglot.run.shrinking import ShrinkSettings, heal, plan_cut
from neuroglot.stats import mean_interval, ratio_interval
from neuroglot.tokens.packing import pack


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
        found, length = bits_by_piece(model, self.held_out[self.language], self.language,
                                      characters=self.options.characters)  # fmt: skip
        if self.intact is None:
            self.intact = found
            self.about |= {"held-out characters": length, "pieces": len(found)}
        low, high = ratio_interval(found, self.intact)
        times = float(found.sum() / self.intact.sum())
        return {"bits": float(found.sum()) / length, "times": times, "low": low, "high": high}

    def refit(self, keep: torch.Tensor) -> list:
        """On the fitted text."""
        gains = may_gain_biases(self.model, keep)
        return compensated(self.model, keep, "refit", self.language, text=self.fitted, tokens=self.options.tokens,
                           intercept=gains)  # fmt: skip

    def healed(self, keep: torch.Tensor, changes: list | None, ids: object, settings: ShrinkSettings) -> ng.Model:
        """The cut model after training."""
        with cut(self.model, keep, changes, ids):
            self.model.save(self.scratch / "cut")
        out = self.scratch / "healed"
        shutil.rmtree(out, ignore_errors=True)
        return heal(self.model, self.scratch / "cut", ids, self.documents, self.language, settings, out, progress=False)

    def sizes(self) -> None:
        """Bits a character at shares of all parameters."""
        table = self.table("sizes")
        exists = self.model.exists

        def add(share: float, what: str, parameters: int, model: ng.Model, **more: object) -> None:
            measured = self.bits(model)
            table.add(share=share, what=what, parameters=parameters, of_all=parameters / self.parameters, **measured,
                      **more)  # fmt: skip

        add(1.0, "intact", self.parameters, self.model)
        later = []
        for share in self.options.sizes:
            if table.late:
                break
            settings = self.settings(share)
            plan = plan_cut(self.model, self.fitted, self.language, settings, progress=False)
            for tried in plan.tried:
                print("tried", tried, flush=True)
            pruned = not bool(plan.keep[exists].all())
            kept = {"tokens": len(plan.ids), "neurons": int(plan.keep.sum())}
            masks = {"random neurons": random_like(plan.keep, exists, 0), "magnitude": plan.keep}
            for name, mask in (masks if pruned else {"vocabulary": exists}).items():
                with cut(self.model, mask, None, plan.ids):
                    add(share, name, size(self.model.network).parameters, self.model, **kept)
            changes = self.refit(plan.keep) if pruned else None
            if pruned:
                with cut(self.model, plan.keep, changes, plan.ids):
                    add(share, "refit", size(self.model.network).parameters, self.model, **kept)
            began = time.perf_counter()
            healed = self.healed(plan.keep, changes, plan.ids, settings)
            spent = time.perf_counter() - began
            parameters = size(healed.network).parameters
            add(share, "healed", parameters, healed, **kept, healing_s=spent)
            later.append((share, plan, pruned, kept, parameters, changes))
        for share, plan, _, kept, parameters, changes in later:  # learns the intact model alone, and not the text
            if not table.late:
                some = self.settings(share, distil=1.0)
                add(share, "healed, teacher alone", parameters, self.healed(plan.keep, changes, plan.ids, some), **kept)
        for share, plan, pruned, kept, parameters, changes in later:
            settings = self.settings(share)
            if pruned and not table.late:
                drawn = random_like(plan.keep, exists, 0)
                refitted = self.refit(drawn)
                with cut(self.model, drawn, refitted, plan.ids):
                    add(share, "refit, random neurons", parameters, self.model, **kept)
                add(share, "healed, random neurons", parameters, self.healed(drawn, refitted, plan.ids, settings),
                    **kept)  # fmt: skip
            if pruned and not table.late:
                add(share, "healed, magnitude without refit", parameters,
                    self.healed(plan.keep, None, plan.ids, settings), **kept)  # fmt: skip
            if pruned and not table.late:
                best = neurons_within(self.scores(), self.model.widths, int(plan.keep.sum()), even=False)
                refitted = self.refit(best)
                with cut(self.model, best, refitted, plan.ids):
                    add(share, "refit, uneven widths", parameters, self.model, **kept)
                add(share, "healed, uneven widths", parameters, self.healed(best, refitted, plan.ids, settings),
                    **kept)  # fmt: skip
            if not table.late:
                some = self.settings(share, distil=0.0)
                add(share, "healed, text alone", parameters, self.healed(plan.keep, changes, plan.ids, some), **kept)
        if later and not table.late:  # what the text alone teaches, nothing being cut
            add(1.0, "intact, trained the same", self.parameters, self.healed(exists, None, None, self.whole()))

    def scores(self) -> torch.Tensor:
        """Magnitudes on the fitted text."""
        read = hidden_moments(self.model, self.documents, self.language, tokens=self.options.tokens, progress=False)
        return magnitudes(self.model, read)

    def losses(self, model: ng.Model, languages: list[str]) -> dict[str, torch.Tensor]:
        """By language, of blocks of held-out text."""
        corpus = self.held_out.select(languages)
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
            table.add(what=what, perplexity=float(found.mean().exp()), **_times(found, intact), blocks=len(intact))

        def refitted(what: str, keep: torch.Tensor, *, heal: bool) -> None:
            changes = self.refit(keep)
            with cut(model, keep, changes):
                add(f"refit, {what}", model)
            if heal and not table.late:
                add(f"healed, {what}", self.healed(keep, changes, None, settings))

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
        orders = [removal_order(ffn.down_columns, of) for ffn, of in zip(model.ffns, moments, strict=True)]
        refitted("surgeon, uneven", keep_within(orders, count / int(exists.sum())), heal=False)
        places = padded([_places(order) for order in orders])  # the last to go is the highest
        refitted("surgeon, even", neurons_within(places, model.widths, count, even=True), heal=False)

    def only(self) -> None:
        """Perplexity by language after tuning on one."""
        table = self.table("only")
        o, model = self.options, self.model
        languages = [tag for tag in o.others.split(",") if tag in self.fitted.languages]
        languages = [self.language, *(tag for tag in languages if tag != self.language)]
        recording = ng.record(model, self.fitted.select(languages), tokens=o.recorded, block=o.block, progress=False)
        weights = sum(ffn.down_columns.shape[0] * (3 if ffn.gated else 2) for ffn in model.ffns) / model.layers
        before = self.losses(model, languages)
        blocks = pack(model, self.documents, self.language, block=o.block, tokens=min(o.tuned, self.available))

        def add(what: str, rate: float, neurons: int, trained: float, some: ng.Model) -> None:
            after = self.losses(some, languages)
            row: dict[str, object] = {"what": what, "rate": rate, "neurons": neurons, "trained": trained}
            for tag in languages:
                row[tag] = float(after[tag].mean().exp())
                row |= {f"{tag} {name}": value for name, value in _times(after[tag], before[tag]).items()}
            table.add(**row)

        add("intact", 0.0, 0, 0.0, model)
        for place in (0, 1):
            for wanted in o.only_shares:
                best = _language_neurons(recording, self.language, int(wanted * self.parameters / weights))
                count = int(best.sum())
                share = count * weights / self.parameters
                rank = max(1, round(count * weights / _adapter_row(model)))
                every = {
                    "its neurons": {"only": best},
                    "random neurons": {"only": random_like(best, model.exists, 0)},
                    "all weights": {},
                    "adapter": {"adapter": rank},
                }
                rates = {"all weights": [1e-4, 3e-4]}
                for name, how in every.items():
                    if table.late:
                        return
                    if (name == "adapter" and find_spec("peft") is None) or (not how and wanted != o.only_shares[0]):
                        continue
                    rate = rates.get(name, [1e-3, 3e-4])[place]
                    tuned = self.tuned(blocks, rate, **how)
                    add(name, rate, count if "only" in how else 0, share if how else 1.0, tuned)

    def tuned(self, blocks: torch.Tensor, rate: float, *, only: torch.Tensor | None = None,
              adapter: int | None = None) -> ng.Model:  # fmt: skip
        """The model after training on blocks."""
        o = self.options
        device = str(self.model.device)
        fresh = ng.load_model(o.model, dtype="float32", device=device)
        settings = TuneSettings(epochs=1, batch=o.batch, at_once=o.at_once_whole, learning_rate=rate, schedule="cosine",
                                warm_up=0.05, save_every=0, adapter=adapter)  # fmt: skip
        path = self.scratch / "tuned"
        shutil.rmtree(path, ignore_errors=True)
        tune(fresh, blocks, path, settings, language=self.language, only=only, progress=False)
        return fresh if adapter is None else ng.load_model(path, dtype="float32", device=device)


def _times(after: torch.Tensor, before: torch.Tensor) -> dict[str, float]:
    """Of perplexities, with an interval over blocks."""
    low, high = mean_interval(after - before)
    return {"times": float((after - before).mean().exp()), "low": float(low.exp()), "high": float(high.exp())}


def _places(order: Order) -> torch.Tensor:
    """When each neuron goes; those that stay are last."""
    places = torch.full((order.neurons,), float(order.neurons))
    places[order.removed] = torch.arange(len(order.removed), dtype=torch.float32)
    return places


def _language_neurons(recording: ng.Recording, language: str, wanted: int) -> torch.Tensor:
    """A language's by LAPE, about so many of them: the share of all neurons that LAPE is asked for is bisected."""
    low, high = 0.0, 0.3
    with warnings.catch_warnings(action="ignore"):  # of a share that finds fewer
        for _ in range(10):
            middle = (low + high) / 2
            mask = ng.identify.lape(recording, top_fraction=middle)[language]
            low, high = (middle, high) if int(mask.sum()) < wanted else (low, middle)
    return mask


def _adapter_row(model: ng.Model) -> int:
    """Parameters of an adapter of rank 1."""
    found = {id(m): m for ffn in model.ffns for m in ffn.layer.modules() if is_matrix(m)}
    return sum(sum(m.weight.shape) for m in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--language", default="fr")
    parser.add_argument("--text", required=True, help="a directory of {language}.txt")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default="sizes,ffn,only")
    parser.add_argument("--sizes", type=float, nargs="*", default=[0.33, 0.4, 0.5])
    parser.add_argument("--seconds", type=float, default=100, help="begin no row of a part later than this")
    parser.add_argument("--heal", type=int, default=1_500_000, help="tokens")
    parser.add_argument("--heal-ffn", type=int, default=500_000, help="tokens, with all of the vocabulary")
    parser.add_argument("--epochs", type=int, default=4, help="times through the text at most")
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--batch", type=int, default=16, help="blocks a step")
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--at-once", type=int, default=16, help="blocks a pass, with a small vocabulary")
    parser.add_argument("--at-once-whole", type=int, default=4, help="blocks a pass, with all of the vocabulary")
    parser.add_argument("--tokens", type=int, default=60_000, help="of the re-fit")
    parser.add_argument("--characters", type=int, default=200_000, help="held out, for bits a character")
    parser.add_argument("--measured", type=int, default=30_000, help="held-out tokens, for perplexity")
    parser.add_argument("--recorded", type=int, default=200_000, help="tokens a language, to find neurons")
    parser.add_argument("--tuned", type=int, default=300_000, help="tokens")
    parser.add_argument("--only-shares", type=float, nargs="*", default=[0.01, 0.002], help="of all parameters")
    parser.add_argument("--others", default="en,fr,de,es,zh,hi,ru,ja")
    parser.add_argument("--device")
    parser.add_argument("--scratch", help="where checkpoints are written and removed")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    bench = Bench(options)
    print(f"opened in {time.perf_counter() - began:.1f} s: {bench.about}", flush=True)
    try:
        for part in options.parts.split(","):
            getattr(bench, part)()
    finally:
        shutil.rmtree(bench.scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
