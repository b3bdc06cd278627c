"""Contribution scores of a Llama-2-7B-sized model: in closed form, and by loops over pairs.

    python benchmarks/contribution.py [--threads 2]

352,256 neurons, 9 languages, 100 samples each. The loop takes 4,950 pairs a language; it is timed over all pairs of
one language (`--whole` for all nine) and multiplied by nine, since languages cost the same.
"""

import argparse
import time

import numpy as np
import torch

import neuroglot as ng

LANGUAGES = ["en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id"]
LAYERS, NEURONS, SAMPLES = 32, 11_008, 100


def pair_loop(vectors: np.ndarray) -> np.ndarray:
    """Σ a·a' over pairs, eq. 11 as it stands: one pair after the other, all neurons of a pair at once."""
    total = np.zeros(vectors.shape[1])
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            total += vectors[i] * vectors[j]
    return total


def published_loop(vectors: np.ndarray) -> np.ndarray:
    """The loop as the authors' code has it: a running mean over pairs (their constant offset left out)."""
    mean, seen = np.zeros(vectors.shape[1]), 0
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            seen += 1
            mean += (vectors[i] * vectors[j] - mean) / seen
    return mean * seen


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--whole", action="store_true", help="loop over the pairs of every language")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(LANGUAGES), SAMPLES, LAYERS * NEURONS, generator=generator)
    samples = ng.Samples.from_vectors(vectors, LANGUAGES, layers=LAYERS)
    del vectors

    times = []
    for _ in range(3):
        begun = time.perf_counter()
        closed = ng.identify.contributions(samples)
        times.append(time.perf_counter() - begun)
    fast = min(times)
    begun = time.perf_counter()
    regions = ng.identify.key_regions(samples, threshold=2.0)
    both = time.perf_counter() - begun

    looped = len(LANGUAGES) if given.whole else 1
    slow = {}
    for name, loop in {"published loop": published_loop, "plain loop, eq. 11": pair_loop}.items():
        spent = difference = 0.0
        for k in range(looped):
            rows = samples.vectors[k].numpy()
            begun = time.perf_counter()
            by_pairs = loop(rows)
            spent += time.perf_counter() - begun
            difference = max(difference, np.abs(closed[k].flatten().numpy() - by_pairs).max() / np.abs(by_pairs).max())
        slow[name] = spent * len(LANGUAGES) / looped, difference

    print(f"{LAYERS * NEURONS:,} neurons, {len(LANGUAGES)} languages × {SAMPLES} samples, {given.threads} threads")
    print(f"closed form          {fast:8.2f} s   (runs: {', '.join(f'{t:.2f}' for t in times)})")
    print(f"  with the regions   {both:8.2f} s   ({ng.alignment.sklr(regions):,} neurons)")
    for name, (spent, difference) in slow.items():
        print(f"{name:20} {spent:8.2f} s   {spent / fast:.0f} × the closed form; largest difference {difference:.1e}")
    print(f"loops: {looped} of {len(LANGUAGES)} languages timed")


if __name__ == "__main__":
    main()
