"""How time and memory grow with tokens, languages, samples, neurons, experts: curves, and each one's fitted exponent.

    python benchmarks/growth.py [--repeats 3] [--out benchmarks/results/growth]

A random Llama is recorded, since growth is a matter of arithmetic; identification runs on random counts. An exponent is
the slope of log time (or memory) over log input, by least squares over the larger half of the inputs, where what every
call costs has faded. Memory is what a call adds to the process at its highest, sampled every few milliseconds.
"""

import argparse
import gc
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import psutil
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from side_by_side import environment
from transformers import AutoConfig, AutoModelForCausalLM

import neuroglot as ng

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny  # its byte tokenizer

Run = Callable[[], object]
TAGS = [f"q{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefgh"]  # tags that no language has
SUMS = ["active", "activation", "hidden"]


def llama() -> ng.Model:
    config = AutoConfig.for_model(
        "llama", hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=512, max_position_embeddings=1024,
    )  # fmt: skip
    torch.manual_seed(0)
    return ng.Model(AutoModelForCausalLM.from_config(config).eval(), tiny.tokenizer(), name="random Llama")


def texts(languages: int) -> ng.Corpus:
    lines = [f"{i} times the same words in another order, {i * i}" for i in range(4000)]
    return ng.Corpus(dict.fromkeys(TAGS[:languages], lines))


def samples(model: ng.Model, number: int) -> ng.Samples:
    generator = torch.Generator().manual_seed(0)
    width = model.layers * model.neurons
    return ng.Samples.from_vectors(
        torch.randn(9, number, width, generator=generator), TAGS[:9], layers=model.layers
    )  # fmt: skip


def counts(neurons: int, languages: int) -> ng.Recording:
    drawn = torch.randint(0, 1_000_000, (32, neurons, languages), generator=torch.Generator().manual_seed(0))
    return ng.Recording.from_counts(drawn, torch.full((languages,), 1_000_000), TAGS[:languages])


def curves(model: ng.Model) -> dict[str, tuple[str, list[int], Callable[[int], Run]]]:
    """What is run → its input, the sizes, and what makes the call for a size."""

    def recording(tokens: int, languages: int = 1, experts: int = 0) -> Run:
        split = ng.experts.partition(model, experts, kind="random") if experts else None
        corpus = texts(languages)
        return lambda: ng.record(
            model, corpus, statistics=SUMS, partition=split, tokens=tokens, block=256, batch_tokens=1024,
            progress=False,
        )  # fmt: skip

    def of_recording(neurons: int, languages: int, run: Callable[[ng.Recording], object]) -> Run:
        recorded = counts(neurons, languages)
        return lambda: run(recorded)

    def of_samples(number: int, run: Callable[[ng.Samples], object]) -> Run:
        made = samples(model, number)
        return lambda: run(made)

    def clustering(rows: int, groups: int) -> Run:
        drawn = torch.randn(rows, 256, generator=torch.Generator().manual_seed(0))
        points = torch.nn.functional.normalize(drawn, dim=1)
        return lambda: ng.experts.balanced_kmeans(points, groups, 0)

    lengths, few = [2048, 4096, 8192, 16_384, 32_768], [1, 2, 4, 8, 16]
    return {
        "record": ("tokens", lengths, recording),
        "record, 2,048 tokens of each": ("languages", few, lambda k: recording(2048, k)),
        "record with experts, 8,192 tokens": ("experts", [32, 64, 128, 256, 512], lambda e: recording(8192, 1, e)),
        "LAPE, 20 languages": (
            "neurons", [32 * n for n in (2048, 4096, 8192, 16_384, 32_768)],
            lambda total: of_recording(total // 32, 20, ng.identify.lape),
        ),
        "LAPE, 131,072 neurons": ("languages", [8, 16, 32, 64, 128], lambda k: of_recording(4096, k, ng.identify.lape)),
        "contribution scores, 9 languages": (
            "samples", [50, 100, 200, 400, 800], lambda n: of_samples(n, ng.identify.contributions)
        ),
        "LRDS and SADS by layer, 9 languages": (
            "samples", [50, 100, 200, 400, 800], lambda n: of_samples(n, ng.alignment.by_layer)
        ),
        "balanced k-means, 64 groups": ("rows", [512, 1024, 2048, 4096, 8192], lambda n: clustering(n, 64)),
        "balanced k-means, 4,096 rows": ("groups", [16, 32, 64, 128, 256], lambda e: clustering(4096, e)),
    }  # fmt: skip


def watched(run: Run) -> tuple[float, int]:
    """Seconds, and bytes at the highest beyond those before."""
    gc.collect()
    process, done, highest = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def look() -> None:
        while not done.wait(0.003):
            highest[0] = max(highest[0], process.memory_info().rss - before)

    looking = threading.Thread(target=look)
    looking.start()
    begun = time.perf_counter()
    try:
        run()
        taken = time.perf_counter() - begun
    finally:
        done.set()
        looking.join()
    return taken, highest[0]


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope over the larger half."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(np.maximum(values[half:], 1e-9)), 1)[0])


def figure(rows: list[dict]) -> Figure:
    with matplotlib.rc_context({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        drawn = Figure(figsize=(10, 7.4), layout="constrained")
        for place, (axes, row) in enumerate(zip(drawn.subplots(3, 3).flat, rows, strict=False)):
            axes.plot(row["sizes"], row["seconds"], marker="o", ms=4, color="#2f5d8a")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(row["sizes"], [f"{size:,}" for size in row["sizes"]], rotation=25, fontsize=7)
            axes.minorticks_off()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            first, last = row["sizes"][0], row["sizes"][-1]
            axes.plot([first, last], [row["seconds"][-1] * first / last, row["seconds"][-1]], ls=":", color="grey")
            said = f"time ∝ {row['input']}^{row['time exponent']:.2f}"
            axes.set_title(f"{row['name']}\n{said}", fontsize=8.5)
            axes.set_xlabel(row["input"])
            if place % 3 == 0:
                axes.set_ylabel("seconds")
        drawn.suptitle("How cost grows (dotted: linear)", fontsize=10)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "growth")
    asked = parser.parse_args()
    print(environment())
    print("| what | input | from | to | time exponent | memory, MiB, smallest to largest | memory exponent |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for name, (input_, sizes, make) in curves(llama()).items():
        seconds, memory = [], []
        for size in sizes:
            taken = [watched(make(size)) for _ in range(asked.repeats + 1)]
            memory.append(max(added for _, added in taken) / 2**20)
            seconds.append(statistics.median(each for each, _ in taken[1:]))
        row = {
            "name": name, "input": input_, "sizes": sizes, "seconds": seconds, "MiB": memory,
            "time exponent": exponent(sizes, seconds),
            "memory exponent": exponent(sizes, memory) if min(memory) > 8 else None,
        }  # fmt: skip
        rows.append(row)
        by_memory = "–" if row["memory exponent"] is None else f"{row['memory exponent']:.2f}"
        print(f"| {name} | {input_} | {sizes[0]:,} | {sizes[-1]:,} | {row['time exponent']:.2f} | "
              f"{memory[0]:.0f} to {memory[-1]:.0f} | {by_memory} |", flush=True)  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.with_suffix(".json").write_text(json.dumps({"environment": environment(), "rows": rows}))
    figure(rows).savefig(asked.out.with_suffix(".png"), dpi=150)
    print(f"wrote {asked.out.with_suffix('.json')} and {asked.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
