"""What a study's passes cost on one GPU: tokens a second, the share of the bare pass, memory, and a forecast.

    python benchmarks/rates.py OUT.csv [MODEL …] [--text TEXT] [--shapes llama-2-7b llama-2-70b]

A row is a model and a pass. `bare` reads the blocks and keeps nothing; every other pass is compared with it on the same
blocks. What a pass takes to read and tokenise its text is timed within it and taken off. Shapes have random weights,
which time like trained ones. Of 80 layers, four are opened, and a layer's time is the rest's. `hours` is 100 million
tokens of one language at that rate. Each row is written when it is measured.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import neuroglot as ng
from neuroglot.evaluate.likelihood import perplexity
from neuroglot.tokens.packing import pack
from neuroglot.tokens.shards import Reading

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny  # its byte tokenizer

SHAPES = {
    "llama-2-7b": (32, 32, {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }),
    "llama-2-70b": (80, 4, {
        "vocab_size": 32_000, "hidden_size": 8192, "intermediate_size": 28_672, "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }),
}  # fmt: skip
"""Layers, layers that are opened, and the configuration."""
FIELDS = ["model", "layers", "opened", "device", "dtype", "pass", "tokens", "tokens_per_second", "of_bare", "gib",
          "hours"]  # fmt: skip


@contextmanager
def reading_timed() -> Iterator[list[float]]:
    """The seconds of every reading of text in this block: no model runs meanwhile."""
    taken: list[float] = []

    def timed(read: Callable) -> Callable:
        def reads(*given: object, **named: object) -> object:
            start = time.perf_counter()
            try:
                return read(*given, **named)
            finally:
                taken.append(time.perf_counter() - start)

        return reads

    with (
        mock.patch.object(Reading, "run", timed(Reading.run)),
        mock.patch.object(perplexity, "pack", timed(perplexity.pack)),
    ):
        yield taken


def seconds(model: ng.Model, run: Callable[[], object]) -> float:
    """Of a pass, reading its text not counted."""
    cuda = model.device.type == "cuda"
    with reading_timed() as reading:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start - sum(reading)


def shaped(name: str, device: str) -> tuple[ng.Model, int]:
    layers, opened, config = SHAPES[name]
    made = AutoConfig.for_model("llama", max_position_embeddings=4096, num_hidden_layers=opened, **config)
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16 if device == "cuda" else torch.float32)
    return ng.Model(network, tiny.tokenizer(), name=name), layers


def measure(model: ng.Model, layers: int, corpus: ng.Corpus, asked: argparse.Namespace, write: Callable) -> None:
    """Every pass of one model, bare first."""
    language = corpus.languages[0]
    blocks = pack(model, corpus[language], language, block=asked.block, tokens=asked.tokens)
    batches = blocks.to(model.device).split(max(1, asked.batch_tokens // asked.block))
    some = {"tokens": asked.tokens, "block": asked.block, "batch_tokens": asked.batch_tokens, "progress": False}
    few = torch.rand(model.layers, model.neurons) < 0.01

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model.hidden_states(batch)

    def edited() -> None:
        with ng.intervene(model, ng.Deactivate(few)):
            bare()

    text = corpus.select([language])
    passes: dict[str, Callable[[], object]] = {
        "bare": bare,
        "record active": lambda: ng.record(model, text, statistics=["active"], readers=0, **some),
        "record all four sums": lambda: ng.record(
            model, text, statistics=["active", "activation", "hidden", "magnitude"], readers=0, **some
        ),
        "ablate 1 %": edited,
        "perplexity": lambda: ng.evaluate.perplexity(model, text, **some),
    }
    of_bare = 0.0
    for name, run in passes.items():
        run()
        if model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        taken = statistics.median(seconds(model, run) for _ in range(asked.repeats))
        taken *= layers / model.layers
        of_bare = of_bare or taken
        rate = blocks.numel() / taken
        peak = torch.cuda.max_memory_allocated() / 2**30 if model.device.type == "cuda" else float("nan")
        write([model.name, layers, model.layers, torch.cuda.get_device_name() if peak == peak else "cpu",
               model.dtype, name, blocks.numel(), round(rate),
               round(taken / of_bare, 3), round(peak, 2), round(1e8 / rate / 3600, 3)])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--text", default="starter", help="a corpus; of its first language")
    parser.add_argument("--shapes", nargs="*", default=[], choices=SHAPES)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(FIELDS)

        def write(row: list[object]) -> None:
            table.writerow(row)
            file.flush()
            print(*row, sep="\t", flush=True)

        for source in asked.models:
            model = ng.load_model(source)
            model.name = Path(source).name
            measure(model, model.layers, ng.load_corpus(asked.text, languages=["en"]), asked, write)
            del model
            torch.cuda.empty_cache()
        letters = ng.Corpus({"en": [f"{i} times the same words in another order, {i * i}" for i in range(200_000)]})
        for name in asked.shapes:
            shape, layers = shaped(name, "cuda" if torch.cuda.is_available() else "cpu")
            measure(shape, layers, letters, asked, write)
            del shape
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
