"""Generation speed with interventions in force, beside the same without.

    python benchmarks/steering.py [--model gemma3-270m] [--tokens 16] [--repeats 7]

Each repeat times both, one after the other, so that a machine whose speed drifts is the same for both. On a CPU the
time is the processor's, not the clock's: other programs do not count. Both write the same number of tokens.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

import neuroglot as ng
from neuroglot.generation.engine import generate

PROMPTS = list(ng.load_corpus("openings", languages=["es"])["es"])[:8]


def seconds(model: ng.Model, tokens: int, steps: Sequence[ng.Intervention]) -> float:
    clock = time.perf_counter if model.device.type == "cuda" else time.process_time
    with ng.intervene(model, *steps):
        start = clock()
        generate(model, PROMPTS, tokens=tokens, repetition_penalty=1.1)
        return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    model = ng.load_model(asked.model, dtype=asked.dtype)
    model.network.generation_config.eos_token_id = None
    one_per_cent = torch.rand(2, model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < 0.01
    arms = {
        "both tokens": [ng.Deactivate(one_per_cent[0]), ng.Raise(one_per_cent[1], 0.01)],
        "generated tokens": [
            ng.Deactivate(one_per_cent[0], when="generated"),
            ng.Raise(one_per_cent[1], 0.01, when="generated"),
        ],
    }
    seconds(model, 2, [])
    ratios: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(asked.repeats):
        for name, steps in arms.items():
            ratios[name].append(seconds(model, asked.tokens, []) / seconds(model, asked.tokens, steps))
    for name, values in ratios.items():
        print(f"{name}: {statistics.median(values):.3f} × the speed without ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
