"""Balanced k-means against k-means-constrained (what MoEfication uses): inertia and time on real up-projections.

    pip install k-means-constrained
    python benchmarks/kmeans.py                       # every layer of Gemma 3 270M and SmolLM2 135M
    python benchmarks/kmeans.py --model Qwen2.5-Coder-0.5B.gguf
    python benchmarks/kmeans.py --busy                # the same beside a process that keeps every core busy
    python benchmarks/kmeans.py --large               # the shape of Llama 2 7B, ours only

Both get the same L2-normalised rows on the same machine with as many threads, one after the other. The rival runs at
its own defaults, with sizes held equal.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import normalize

import neuroglot as ng
from neuroglot.experts.kmeans import balanced_kmeans, inertia


def compare(name: str, layers: int | None, seeds: int, rival: bool, device: str) -> None:
    model = ng.load_model(name, device=device)
    chosen = range(model.layers)
    if layers is not None:
        chosen = torch.linspace(0, model.layers - 1, layers).round().int().tolist()
    ratios, ours, theirs = [], [], []
    for layer in chosen:
        rows = normalize(model.ffns[layer].up_rows.detach().float(), dim=1)
        for seed in range(seeds):
            start = time.perf_counter()
            labels = balanced_kmeans(rows, 256, seed)
            int(labels[0])  # of a GPU: wait for it
            ours.append(time.perf_counter() - start)
            reached = inertia(rows, labels)
            line = f"{name} layer {layer} seed {seed}: inertia {reached:.1f} in {ours[-1]:.2f} s"
            if rival:
                least, seconds = constrained(rows, seed)
                ratios.append(reached / least)
                theirs.append(seconds)
                line += f"; k-means-constrained {least:.1f} in {seconds:.2f} s (inertia × {ratios[-1]:.4f})"
            print(line, flush=True)
    print(f"{name}: {statistics.median(ours):.2f} s a layer ({min(ours):.2f} to {max(ours):.2f})")
    if rival:
        print(f"{name}: inertia × {statistics.mean(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f})")
        print(f"{name}: time × {sum(ours) / sum(theirs):.3f}", flush=True)


def constrained(rows: torch.Tensor, seed: int) -> tuple[float, float]:
    """Inertia and seconds of k-means-constrained at its own defaults, with sizes as equal as they can be."""
    from k_means_constrained import KMeansConstrained

    start = time.perf_counter()
    method = KMeansConstrained(256, size_min=len(rows) // 256, size_max=-(-len(rows) // 256), random_state=seed)
    method.fit(rows.double().numpy())
    return float(method.inertia_), time.perf_counter() - start


@contextmanager
def busy(shown: bool) -> Iterator[None]:
    """A process a core that does nothing else, while the block runs."""
    spin = [sys.executable, "-c", "while True: pass"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = [subprocess.Popen(spin) for _ in range(cores)] if shown else []
    try:
        yield
    finally:
        for each in others:
            each.kill()


def large(rows: int, width: int) -> None:
    points = normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=1)
    start = time.perf_counter()
    labels = balanced_kmeans(points, 256)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{rows} × {width} → 256: {seconds:.1f} s, inertia {inertia(points, labels):.1f}, peak {memory:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="so many, evenly spaced; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--busy", action="store_true", help="keep every core busy with another process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--alone", action="store_true", help="without k-means-constrained")
    parser.add_argument("--model", nargs="+", default=["gemma3-270m", "smollm2-135m"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        large(11_008, 4_096)
        return
    with busy(options.busy):
        for name in options.model:
            compare(name, options.layers, options.seeds, not options.alone, options.device)


if __name__ == "__main__":
    main()
