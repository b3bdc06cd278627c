"""What healing learns from the text, and what tuning a language's neurons alone does, beside their controls.

    python benchmarks/healing.py --model gemma3-270m --language fr --text texts/ --out out/ [--parts controls,only]

Parts, a table each, written after every row as CSV and JSON:

- `controls`: bits a character of a cut model that was healed, and of the intact one trained alike on the same text.
  What both gain is the text's; what is left between them is the cut's. Measured on held-out text, and on `elsewhere`:
  the built-in starter text, which is of everyday life.
- `only`: perplexity by language after tuning on one: its neurons alone, as many random ones, a LoRA of as many
  parameters, all weights.

`low` and `high` are the 95 % interval of `times`, the quotient with the intact model. Other options, and the rest, are
those of `benchmarks/shrink.py`.
"""

import shutil
import warnings
from importlib.util import find_spec

import torch
from shrink import Bench, kept_by, options, times, work

import neuroglot as ng
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.evaluate.likelihood.bits import Bits, bits_by_piece
from neuroglot.models.architecture.ffn import is_matrix
from neuroglot.pruning.budget import random_like
from neuroglot.pruning.size import size
from neuroglot.run.shrink_plan import plan_cut
from neuroglot.stats import ratio_interval
from neuroglot.tokens.packing import pack


class Healing(Bench):
    """A model, its text, and text of another kind."""

    @property
    def elsewhere(self) -> ng.Corpus | None:
        """The starter text in the language, if it has some."""
        starter = ng.load_corpus("starter")
        return starter.select([self.language]) if self.language in starter.languages else None

    def controls(self) -> None:
        """Bits a character after healing, and after the same training with nothing cut."""
        model, table = self.model, self.table("controls")
        texts = {"": self.held_out.select([self.language])}
        if (other := self.elsewhere) is not None:
            texts["elsewhere "] = other
        before: dict[str, Bits] = {}

        def add(share: float, what: str, some: ng.Model, **more: object) -> None:
            row: dict[str, object] = {}
            for name, text in texts.items():
                found = bits_by_piece(some, text[self.language], self.language, characters=self.options.characters)
                intact = before.setdefault(name, found)
                low, high = ratio_interval(found.pieces, intact.pieces)
                row |= {f"{name}bits": found.per_character, f"{name}characters": found.characters}
                row |= {f"{name}times": float(found.pieces.sum() / intact.pieces.sum())}
                row |= {f"{name}low": low, f"{name}high": high}
            table.add(share=share, what=what, parameters=size(some.network).parameters, **row, **more)

        add(1.0, "intact", model)
        plans = {}
        for share in self.options.sizes:
            plan = plan_cut(model, self.fitted, self.language, self.settings(share), progress=False)
            plans[share] = plan, self.fit(plan)
            with plan.cut(model, plans[share][1]):
                add(share, "not healed", model, **kept_by(plan))
        whole = self.whole_plan(model.exists)
        alike = {"heal": self.heal_tokens, "at_once": self.options.at_once_whole}
        for distil, what in ((0.5, "healed"), (0.0, "text alone"), (1.0, "teacher alone")):
            if distil == 0.0 and not table.late:
                add(1.0, what, self.healed(whole, None, self.settings(0.99, distil=0.0, **alike)))
            for share, (plan, fit) in plans.items():
                if not table.late:
                    add(share, what, self.healed(plan, fit, self.settings(share, distil=distil)), **kept_by(plan))
        if not table.late:  # its own teacher: what half of the loss changes where nothing was cut
            add(1.0, "healed", self.healed(whole, None, self.settings(0.99, **alike)))

    def only(self) -> None:
        """Perplexity by language after tuning on one."""
        table = self.table("only")
        o, model = self.options, self.model
        languages = [tag for tag in o.others.split(",") if tag in self.fitted.languages]
        languages = [self.language, *(tag for tag in languages if tag != self.language)]
        recording = ng.record(model, self.fitted.select(languages), tokens=o.recorded, block=o.block, progress=False)
        weights = sum(ffn.down_columns.shape[0] * (3 if ffn.gated else 2) for ffn in model.ffns) / model.layers
        before = self.losses(model, languages)
        other = self.elsewhere
        before_elsewhere = None if other is None else self.losses(model, [self.language], other)
        blocks = pack(model, self.documents, self.language, block=o.block, tokens=min(o.tuned, self.available))

        def add(what: str, rate: float, trained: float, some: ng.Model, seed: int = 0, **more: object) -> None:
            after = self.losses(some, languages)
            row: dict[str, object] = {"what": what, "rate": rate, "trained": trained, "seed": seed, **more}
            for tag in languages:
                row[tag] = float(after[tag].mean().exp())
                row |= {f"{tag} {name}": value for name, value in times(after[tag], before[tag]).items()}
            if before_elsewhere is not None:
                after = self.losses(some, [self.language], other)
                found = times(after[self.language], before_elsewhere[self.language])
                row |= {f"elsewhere {name}": value for name, value in found.items()}
            table.add(**row)

        add("intact", 0.0, 0.0, model)
        for place in (0, 1):
            for wanted in o.only_shares:
                best = _language_neurons(recording, self.language, int(wanted * self.parameters / weights))
                count = int(best.sum())
                rank = max(1, round(count * weights / _adapter_row(model)))
                small, rate = count * weights / self.parameters, [1e-3, 3e-4][place]
                rows: list[tuple[str, float, float, int, dict[str, object]]] = [
                    ("its neurons", rate, small, 0, {"only": best}),
                    ("random neurons", rate, small, 0, {"only": random_like(best, model.exists, 0)}),
                ]
                if find_spec("peft") is not None:
                    rows.append(("adapter", rate, rank * _adapter_row(model) / self.parameters, 0, {"adapter": rank}))
                if wanted == o.only_shares[0]:
                    rows.append(("all weights", [1e-4, 3e-4][place], 1.0, 0, {}))
                    rows += [("random neurons", rate, small, seed, {"only": random_like(best, model.exists, seed)})
                             for seed in (1, 2)]  # fmt: skip
                for what, at, trained, seed, how in rows:
                    if table.late:
                        return
                    kept = {"neurons": count} if "only" in how else {"rank": rank} if how else {}
                    add(what, at, trained, self.tuned(blocks, at, **how), seed, **kept)

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
    parser = options(__doc__.splitlines()[0], "controls,only", sizes=[0.33])
    parser.add_argument("--recorded", type=int, default=200_000, help="tokens a language, to find neurons")
    parser.add_argument("--tuned", type=int, default=300_000, help="tokens")
    parser.add_argument("--only-shares", type=float, nargs="*", default=[0.01, 0.002], help="of all parameters")
    parser.add_argument("--others", default="en,fr,de,es,zh,hi,ru,ja")
    work(Healing, parser.parse_args())


if __name__ == "__main__":
    main()
