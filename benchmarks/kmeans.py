"""Balanced k-means against k-means-constrained (what MoEfication uses): inertia and time on real up-projections.

    pip install k-means-constrained
    python benchmarks/kmeans.py                       # Gemma 3 270M and SmolLM2 135M
    python benchmarks/kmeans.py --large               # the shape of Llama 2 7B, ours only

Both get the same L2-normalised rows on the same machine with as many threads, one after the other. The rival runs at
its own defaults, with sizes held equal.
"""

import argparse
import resource
import time

import torch
from torch.nn.functional import normalize

import neuroglot as ng
from neuroglot.experts.kmeans import balanced_kmeans, inertia


def compare(name: str, layers: int, seeds: int) -> None:
    from k_means_constrained import KMeansConstrained

    model = ng.load_model(name)
    chosen = torch.linspace(0, model.layers - 1, layers).round().int().tolist()
    ratios, times = [], []
    for layer in chosen:
        rows = normalize(model.ffns[layer].up_rows.detach().float(), dim=1)
        size = len(rows) // 256
        for seed in range(seeds):
            start = time.perf_counter()
            labels = balanced_kmeans(rows, 256, seed)
            ours = time.perf_counter() - start
            start = time.perf_counter()
            rival = KMeansConstrained(256, size_min=size, size_max=size, random_state=seed).fit(rows.double().numpy())
            theirs = time.perf_counter() - start
            ratios.append(inertia(rows, labels) / float(rival.inertia_))
            times.append(ours / theirs)
            print(
                f"{name} layer {layer} seed {seed}: inertia {inertia(rows, labels):.1f} against {rival.inertia_:.1f} "
                f"({ratios[-1]:.4f}), {ours:.2f} s against {theirs:.2f} s ({times[-1]:.3f})",
                flush=True,
            )
    print(f"{name}: inertia × {sum(ratios) / len(ratios):.4f}, time × {sum(times) / len(times):.3f}", flush=True)


def large(rows: int, width: int) -> None:
    points = normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(0)), dim=1)
    start = time.perf_counter()
    labels = balanced_kmeans(points, 256)
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{rows} × {width} → 256: {seconds:.1f} s, inertia {inertia(points, labels):.1f}, peak {memory:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.large:
        large(11_008, 4_096)
        return
    for name in ("gemma3-270m", "smollm2-135m"):
        compare(name, options.layers, options.seeds)


if __name__ == "__main__":
    main()
