"""What recording costs beside the bare forward pass of the model's body, over the same blocks, side by side.

    python benchmarks/recording.py [--model gemma3-270m] [--tokens 4096] [--block 512] [--repeats 5]

Each repeat times the bare pass and every recording in turn, so that a machine whose speed drifts slows all of them;
the ratios are taken within a repeat.
"""

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable

import torch

import neuroglot as ng
from neuroglot.packing import pack

ROWS = {"active (LAPE)": ["active"], "active, activation, hidden": ["active", "activation", "hidden"]}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    model = ng.load_model(arguments.model)
    corpus = ng.load_corpus("starter", languages=["en"])
    settings = {"tokens": arguments.tokens, "block": arguments.block, "progress": False}
    blocks = pack(model, corpus["en"], "en", block=arguments.block, tokens=arguments.tokens)
    batches = blocks.split(max(1, arguments.batch_tokens // arguments.block))

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model.body(batch)

    def recording(kept: list[str]) -> None:
        ng.record(model, corpus, statistics=kept, batch_tokens=arguments.batch_tokens, **settings)

    bare()
    recording(["active"])  # the fingerprints are taken once and kept
    times: dict[str, list[float]] = {"bare body forward": []} | {name: [] for name in ROWS}
    for _ in range(arguments.repeats):
        times["bare body forward"].append(seconds(bare))
        for name, kept in ROWS.items():
            times[name].append(seconds(lambda kept=kept: recording(kept)))

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{model!r}, {blocks.numel():,} tokens in blocks of {arguments.block}, {model.network.dtype}")
    print(f"{device}, {platform.machine()}, torch {torch.__version__}, commit {commit or 'unknown'}\n")
    print(f"{'':30}{'tokens/s':>10}{'ratio':>9}{'lowest':>9}{'highest':>9}")
    for name, taken in times.items():
        ratios = [mine / its for mine, its in zip(taken, times["bare body forward"], strict=True)]
        rate = blocks.numel() / statistics.median(taken)
        print(f"{name:30}{rate:10,.0f}{statistics.median(ratios):9.3f}{min(ratios):9.3f}{max(ratios):9.3f}")


if __name__ == "__main__":
    main()
