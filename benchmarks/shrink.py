"""A model for one language, measured: cut to sizes, healed, and its rivals; and training only a language's neurons.

    python benchmarks/shrink.py --model gemma3-270m --language fr --text texts/ --out out/ [--parts sizes,ffn,only]

Parts, a table each, written after every row as CSV and JSON:

- `sizes`: bits a character on held-out text at shares of all parameters: vocabulary, neurons, re-fit, healing.
- `ffn`: perplexity with 75 % of the neurons, the vocabulary untouched.
- `only`: perplexity by language after tuning on one: its neurons alone, as many random ones, an adapter, all weights.

No row is begun after --seconds; the most important ones come first.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

import neuroglot as ng
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.models.architecture.ffn import is_matrix
from neuroglot.pruning.budget import magnitudes, neurons_within, random_like
from neuroglot.pruning.checkpoint import cut, may_gain_biases
from neuroglot.pruning.compensation import compensated
from neuroglot.pruning.moments import hidden_moments
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import language_counts
from neuroglot.run.shrinking import ShrinkSettings, heal, plan_cut
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
        return ShrinkSettings(
            share=share, tokens=o.tokens, characters=o.characters, heal=self.heal_tokens, learning_rate=o.rate,
            batch=o.batch, at_once=o.at_once, block=o.block, **how,
        )  # fmt: skip

    def bits(self, model: ng.Model) -> float:
        """Of the held-out text."""
        return bits_per_character(model, self.held_out[self.language], self.language,
                                  characters=self.options.characters)  # fmt: skip

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
        intact = self.bits(self.model)
        exists = self.model.exists

        def add(share: float, what: str, parameters: int, bits: float, **more: object) -> None:
            table.add(share=share, what=what, parameters=parameters, of_all=parameters / self.parameters, bits=bits,
                      times=bits / intact, **more)  # fmt: skip

        add(1.0, "intact", self.parameters, intact)
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
                    add(share, name, size(self.model.network).parameters, self.bits(self.model), **kept)
            changes = self.refit(plan.keep) if pruned else None
            if pruned:
                with cut(self.model, plan.keep, changes, plan.ids):
                    add(share, "refit", size(self.model.network).parameters, self.bits(self.model), **kept)
            began = time.perf_counter()
            healed = self.healed(plan.keep, changes, plan.ids, settings)
            spent = time.perf_counter() - began
            parameters = size(healed.network).parameters
            add(share, "healed", parameters, self.bits(healed), **kept, healing_s=spent)
            later.append((share, plan, pruned, kept, parameters))
        for share, plan, pruned, kept, parameters in later:  # rivals
            settings = self.settings(share)
            if pruned and not table.late:
                scores = magnitudes(self.model, hidden_moments(self.model, self.documents, self.language,
                                                               tokens=self.options.tokens, progress=False))  # fmt: skip
                best = neurons_within(scores, self.model.widths, int(plan.keep.sum()), even=False)
                changes = self.refit(best)
                with cut(self.model, best, changes, plan.ids):
                    add(share, "refit, uneven widths", parameters, self.bits(self.model), **kept)
                add(share, "healed, uneven widths", parameters,
                    self.bits(self.healed(best, changes, plan.ids, settings)), **kept)  # fmt: skip
            if pruned and not table.late:
                drawn = random_like(plan.keep, exists, 0)
                changes = self.refit(drawn)
                add(share, "healed, random neurons", parameters,
                    self.bits(self.healed(drawn, changes, plan.ids, settings)), **kept)  # fmt: skip
            for distil in (0.0, 1.0):
                if not table.late:
                    changes = self.refit(plan.keep) if pruned else None
                    some = settings.model_copy(update={"distil": distil})
                    name = "healed, teacher alone" if distil else "healed, text alone"
                    add(share, name, parameters, self.bits(self.healed(plan.keep, changes, plan.ids, some)), **kept)

    def perplexity(self, model: ng.Model, languages: list[str]) -> dict[str, float]:
        """By language, of held-out text."""
        corpus = self.held_out.select(languages)
        return ng.evaluate.perplexity(model, corpus, tokens=self.options.measured, block=512, progress=False)

    def ffn(self) -> None:
        """Perplexity with 75 % of the neurons."""
        table = self.table("ffn")
        model, exists = self.model, self.model.exists

        def add(what: str, some: ng.Model) -> None:
            found = self.perplexity(some, [self.language])[self.language]
            table.add(what=what, perplexity=found, times=found / (table.rows[0]["perplexity"] if table.rows else found))

        add("intact", model)
        scores = magnitudes(model, hidden_moments(model, self.documents, self.language, tokens=self.options.tokens,
                                                  progress=False))  # fmt: skip
        for even in (False, True):
            widths = "even" if even else "uneven"
            keep = neurons_within(scores, model.widths, round(0.75 * int(exists.sum())), even=even)
            if not even:
                with cut(model, random_like(keep, exists, 0)):
                    add("random", model)
            with cut(model, keep):
                add(f"magnitude, {widths}", model)
            changes = self.refit(keep)
            with cut(model, keep, changes):
                add(f"refit, {widths}", model)
            if not table.late:
                settings = self.settings(0.75).model_copy(
                    update={"heal": min(self.heal_tokens, self.options.heal_ffn), "at_once": self.options.at_once_whole}
                )
                add(f"healed, {widths}", self.healed(keep, changes, None, settings))

    def only(self) -> None:
        """Perplexity by language after tuning on one."""
        table = self.table("only")
        o, model = self.options, self.model
        languages = [tag for tag in o.others.split(",") if tag in self.fitted.languages]
        languages = [self.language, *(tag for tag in languages if tag != self.language)]
        recording = ng.record(model, self.fitted.select(languages), tokens=o.recorded, block=512, progress=False)
        weights = sum(ffn.down_columns.shape[0] * (3 if ffn.gated else 2) for ffn in model.ffns) / model.layers
        wanted = int(o.only_share * self.parameters / weights)
        best = None
        for top in (0.02, 0.04, 0.06, 0.1, 0.15, 0.2):
            mask = ng.identify.lape(recording, top_fraction=top)[self.language]
            best = mask
            if int(mask.sum()) >= wanted:
                break
        assert best is not None
        count = int(best.sum())
        share = count * weights / self.parameters
        rank = max(1, round(count * weights / _adapter_row(model)))
        before = self.perplexity(model, languages)
        table.add(what="intact", rate=0.0, neurons=0, trained=0.0, **before)
        blocks = pack(model, self.documents, self.language, block=o.block, tokens=min(o.tuned, self.available))
        every = {
            "its neurons": {"only": best},
            "random neurons": {"only": random_like(best, model.exists, 0)},
            "all weights": {},
            "adapter": {"adapter": rank},
        }
        rates = {"all weights": [1e-4, 3e-4]}
        for place in (0, 1):
            for name, how in every.items():
                if table.late:
                    return
                if name == "adapter" and not _has_peft():
                    continue
                rate = rates.get(name, [1e-3, 3e-4])[place]
                fresh = ng.load_model(o.model, dtype="float32", device=str(model.device))
                settings = TuneSettings(
                    epochs=1, batch=o.batch, at_once=o.at_once_whole, learning_rate=rate, schedule="cosine",
                    warm_up=0.05, save_every=0, adapter=how.get("adapter"),
                )  # fmt: skip
                path = self.scratch / "tuned"
                shutil.rmtree(path, ignore_errors=True)
                tune(fresh, blocks, path, settings, language=self.language, only=how.get("only"), progress=False)
                if name == "adapter":
                    fresh = ng.load_model(path, dtype="float32", device=str(model.device))
                trained = 1.0 if name == "all weights" else share
                table.add(what=name, rate=rate, neurons=count if "only" in how else 0, trained=trained,
                          **self.perplexity(fresh, languages))  # fmt: skip


def _has_peft() -> bool:
    try:
        import peft  # noqa: F401
    except ImportError:
        return False
    return True


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
    parser.add_argument("--only-share", type=float, default=0.01, help="of all parameters")
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
