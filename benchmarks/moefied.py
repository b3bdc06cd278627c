"""A dense model as a mixture of experts of which each token is given a quarter, and Babel's figures on it.

    python benchmarks/moefied.py --model gemma3-270m --text TEXTS --out benchmarks/results/moefied

TEXTS is a directory of LANGUAGE.txt. The routers are fitted by least squares as `neuroglot moefy` does, then trained to
give the dense model's distribution (`neuroglot tune --only routers --teacher`), no other weight moved; last all weights
are. Perplexity is measured after each step, on text that none of them read, beside routers of random rows. Then
`neuroglot study babel` reads the mixture with trained routers. What is measured is written after every step.
"""

import argparse
import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

import neuroglot as ng
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.tokens.packing import pack


class Table:
    """Perplexities by language, a row a step, written as they come."""

    def __init__(self, path: Path, held_out: ng.Corpus, tokens: int, block: int):
        self.path, self.held_out, self.tokens, self.block = path, held_out, tokens, block
        self.rows: list[dict[str, object]] = []
        self.begun = time.monotonic()

    def measure(self, step: str, model: ng.Model) -> None:
        """Add a model's row."""
        measured = ng.evaluate.perplexity(model, self.held_out, tokens=self.tokens, block=self.block, progress=False)
        self.rows.append({"step": step, **{tag: f"{value:.5g}" for tag, value in measured.items()}})
        print(f"{time.monotonic() - self.begun:6.0f} s", self.rows[-1], flush=True)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


@torch.no_grad()
def rows_at_random(model: ng.Model) -> None:
    """Other rows in every router, as large as the fitted ones."""
    generator = torch.Generator().manual_seed(0)
    for mixture in model.mixtures.values():
        weight = mixture.routing.owner.weight
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        weight.copy_(drawn / drawn.norm(dim=1, keepdim=True) * weight.norm(dim=1, keepdim=True))
    model.weights_changed()


def router_size(model: ng.Model) -> float:
    """The root mean square of the routers' weights: so small that a usual learning rate would undo the fit."""
    weights = torch.cat([mixture.routing.owner.weight.detach().flatten() for mixture in model.mixtures.values()])
    return float(weights.square().mean().sqrt())


def main() -> None:
    """Moefy, train, measure, and read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--text", default="starter")
    parser.add_argument("--languages", default=None, help="en,fr,…; all of the text's by default")
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top", type=int, default=None, help="experts a token; a quarter by default")
    parser.add_argument("--fit", type=int, default=200_000, help="tokens that routers are fitted to")
    parser.add_argument("--steps", type=int, default=250, help="of the training of the routers, and of all weights")
    parser.add_argument("--batch", type=int, default=32, help="blocks a step")
    parser.add_argument("--rate", type=float, default=0.02, help="of the routers, in sizes of their weights")
    parser.add_argument("--healing-rate", type=float, default=2e-4, help="of all weights")
    parser.add_argument("--evaluate", type=int, default=10_000, help="held-out tokens a language")
    parser.add_argument("--record", type=int, default=100_000, help="tokens a language that the study reads")
    parser.add_argument("--block", type=int, default=256)
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--work", type=Path, default=None, help="where checkpoints go; a folder beside --out by default"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/moefied"))
    said = parser.parse_args()
    top, work = said.top or said.experts // 4, said.work or said.out.with_name(said.out.name + "-checkpoints")
    for folder in (said.out, work):
        folder.mkdir(parents=True, exist_ok=True)
    corpus = ng.load_corpus(said.text, languages=said.languages.split(",") if said.languages else None)
    read, held_out = corpus.split()
    table = Table(said.out / "perplexity.csv", held_out, said.evaluate, said.block)

    dense = ng.load_model(said.model, dtype="float32", device=said.device)
    table.measure("dense", dense)
    fitted = work / "fitted"
    if not fitted.exists():
        ng.experts.moefy(dense, said.experts, top, fitted, text=read, tokens=said.fit, progress=False)
    routed = ng.load_model(fitted, dtype="float32", device=said.device)
    table.measure("routers fitted", routed)
    tokens = -(-said.steps * said.batch * said.block // len(read.languages))
    blocks = torch.cat([
        pack(routed, read[tag], tag, block=said.block, tokens=tokens) for tag in read.languages
    ])  # fmt: skip
    rate = said.rate * router_size(routed)
    print(
        f"{len(blocks)} blocks of {said.block} tokens, {said.batch} a step; the routers' rate is {rate:.3g}", flush=True
    )
    rows_at_random(routed)
    table.measure("routers of random rows", routed)

    def train(start: Path, name: str, rate: float, **part: str) -> Path:
        settings = TuneSettings(
            epochs=1, steps=said.steps, batch=said.batch, learning_rate=rate, schedule="cosine", warm_up=0.05, distil=1,
            at_once=min(16, said.batch), save_every=0,
        )  # fmt: skip
        student = ng.load_model(start, dtype="float32", device=said.device)
        path = tune(student, blocks, work / name, settings, teacher=dense, progress=False, **part)
        table.measure(name.replace("-", " "), ng.load_model(path, dtype="float32", device=said.device))
        return path

    trained = train(fitted, "routers-trained", rate, only="routers")
    study = said.out / "babel"
    settings = work / "study.toml"
    settings.write_text(
        f'[model]\nsource = "{trained}"\n[text]\nsource = "{said.text}"\n'
        f"[record]\ntokens = {said.record}\nblock = {said.block}\n"
    )
    command = [
        sys.executable, "-m", "neuroglot", "study", "babel", "--settings", str(settings), "--out", str(study),
        "--languages", ",".join(read.languages), "--only", "figure-1,figure-2,figure-3",
        *(["--device", said.device] if said.device else []),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    shutil.rmtree(study / "recording" / "text", ignore_errors=True)
    train(trained, "all-weights-trained", said.healing_rate)


if __name__ == "__main__":
    main()
