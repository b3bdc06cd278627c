"""Recording, perplexity and generation on one GPU, at the shapes of 7B and 8B models with random weights.

    python benchmarks/gpu.py [--shape llama-2-7b] [--tokens 65536] [--block 2048] [--batch-tokens 16384]

Random weights time like trained ones: the arithmetic is the same. Times are host times around a synchronised region.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import neuroglot as ng
from neuroglot.tokens.packing import pack

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny  # its byte tokenizer

SHAPES = {
    "llama-2-7b": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32,
    },
    "llama-3-8b": {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
}  # fmt: skip
RECORDINGS = {
    "recording active (LAPE)": ["active"],
    "recording active, activation, hidden": ["active", "activation", "hidden"],
    "those three and residual": ["active", "activation", "hidden", "residual"],
}


def seconds(run: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def matrix_peak(size: int = 8192) -> float:
    """FLOPs a second of a large bfloat16 product, which is what the body could reach at most."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    torch.matmul(a, b)
    return 2 * size**3 / statistics.median(seconds(lambda: torch.matmul(a, b)) for _ in range(10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time of one batch goes")
    arguments = parser.parse_args()

    config = AutoConfig.for_model("llama", max_position_embeddings=4096, **SHAPES[arguments.shape])
    with torch.device("cuda"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = ng.Model(network, tiny.tokenizer(), name=arguments.shape)
    text = ng.Corpus({"en": [f"{i} times the same words in another order, {i * i}" for i in range(200_000)]})
    settings = {"tokens": arguments.tokens, "block": arguments.block, "batch_tokens": arguments.batch_tokens}
    blocks = pack(model, text["en"], "en", block=arguments.block, tokens=arguments.tokens)
    batches = blocks.cuda().split(arguments.batch_tokens // arguments.block)

    @torch.inference_mode()
    def bare() -> None:
        for batch in batches:
            model.hidden_states(batch)

    # samples of equal length, so that the same batches can be read bare
    length = 256
    letters = ["".join(chr(97 + (7 * i + j) % 26) for j in range(length)) for i in range(arguments.tokens // length)]
    parallel = ng.Corpus({"en": letters}, parallel=True)
    sentences = torch.randint(0, 256, (len(letters), length + 1), device="cuda")

    @torch.inference_mode()
    def bare_samples() -> None:
        for batch in sentences.split(max(1, arguments.batch_tokens // (length + 1))):
            model.hidden_states(batch)

    def samples(kept: tuple[str, ...] = ()) -> None:
        ng.record_samples(model, parallel, statistics=kept, batch_tokens=arguments.batch_tokens, progress=False)

    split = ng.experts.partition(model, 256, kind="random")

    def recording(kept: list[str], partition: ng.experts.Partition | None = None) -> None:
        ng.record(model, text, statistics=kept, partition=partition, progress=False, **settings)

    @torch.inference_mode()
    def head() -> None:
        weight = network.lm_head.weight
        for batch in batches:
            states = torch.empty(batch.numel(), weight.shape[1], dtype=weight.dtype, device="cuda")
            for some in states.split(2048):
                some @ weight.T

    rows: dict[str, Callable[[], object]] = {"bare body forward": bare}
    rows |= {name: lambda kept=kept: recording(kept) for name, kept in RECORDINGS.items()}
    rows["all four sums and experts"] = lambda: recording(["active", "activation", "hidden", "magnitude"], split)
    rows[f"bare body, samples of {length}"] = bare_samples
    rows["sample vectors and embeddings"] = samples
    rows["the same and all four sums"] = lambda: samples(("active", "activation", "hidden", "magnitude"))
    rows["those three and 5 examples"] = lambda: ng.record(model, text, examples=5, progress=False, **settings)
    rows["bare body + one head product"] = lambda: (bare(), head())
    rows["perplexity"] = lambda: ng.evaluate.perplexity(model, text, progress=False, **settings)
    times: dict[str, list[float]] = {name: [] for name in rows}
    tokenising = seconds(lambda: pack(model, text["en"], "en", block=arguments.block, tokens=arguments.tokens))
    packing = [*RECORDINGS, "all four sums and experts", "those three and 5 examples", "perplexity"]
    against = {"perplexity": "bare body + one head product"}
    against |= dict.fromkeys(
        ["sample vectors and embeddings", "the same and all four sums"], f"bare body, samples of {length}"
    )
    for run in rows.values():
        run()
    for _ in range(arguments.repeats):
        for name, run in rows.items():
            taken = seconds(run)
            times[name].append(taken - tokenising if name in packing else taken)

    body = sum(weight.numel() for name, weight in network.named_parameters() if "layers" in name)
    peak = matrix_peak()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.strip()
    print(f"{arguments.shape}, bfloat16, {blocks.numel():,} tokens in blocks of {arguments.block}, "
          f"{arguments.batch_tokens:,} a forward pass")  # fmt: skip
    print(f"{torch.cuda.get_device_name()}, driver {driver}, torch {torch.__version__}, commit {commit or 'unknown'}")
    print(f"matrix products reach {peak / 1e12:.0f} TFLOP/s; tokenising ({tokenising:.2f} s) is left out\n")
    print(f"{'':38}{'tokens/s':>10}{'of peak':>9}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for name, taken in times.items():
        base = times[against.get(name, name if name.startswith("bare body,") else "bare body forward")]
        ratios = [mine / its for mine, its in zip(taken, base, strict=True)]
        rate = blocks.numel() / statistics.median(taken)
        print(f"{name:38}{rate:10,.0f}{2 * body * rate / peak:9.1%}"
              f"{statistics.median(ratios):8.3f}{min(ratios):8.3f}{max(ratios):8.3f}")  # fmt: skip
    rate = blocks.numel() / statistics.median(times["recording active (LAPE)"])
    hours = 1e8 / rate / 3600
    print(f"\n100 million tokens of a language at that rate: {hours:.2f} h (LAPE's authors, on one 3090: 7 to 8 h)")
    generation(model)
    points = torch.nn.functional.normalize(torch.randn(11_008, 4096, device="cuda"), dim=1)
    taken = [seconds(lambda seed=seed: ng.experts.balanced_kmeans(points, 256, seed)) for seed in range(3)]
    spread = f"{min(taken):.2f} to {max(taken):.2f}"
    print(f"balanced k-means, 11,008 × 4,096 into 256: {statistics.median(taken):.2f} s ({spread})")
    if arguments.profile:
        profile(model, batches[0])


def generation(model: ng.Model, new: int = 64) -> None:
    prompt = torch.randint(0, 256, (8, 64), device="cuda")
    chosen = torch.rand(model.layers, model.neurons) < 0.01
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 257}
    run = lambda: model.network.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)  # noqa: E731
    run()
    ratios, rates = [], []
    for _ in range(7):
        plain = seconds(run)
        with ng.intervene(model, ng.Deactivate(chosen)):
            run()
            edited = seconds(run)
        ratios.append(plain / edited)
        rates.append(8 * new / edited)
    print(f"generation with 1 % of the neurons off: {statistics.median(rates):,.0f} tokens/s, "
          f"{statistics.median(ratios):.3f} × the speed without")  # fmt: skip


@torch.inference_mode()
def profile(model: ng.Model, batch: torch.Tensor) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from neuroglot.models.architecture.hooks import observe_ffn
    from neuroglot.recording.statistics.experts import Experts
    from neuroglot.recording.statistics.sums import STATISTICS, Sums

    labels = ng.experts.partition(model, 256, kind="random").labels
    kept = [Sums(model.ffns, STATISTICS), Experts(model.ffns, labels, 256, [0.1])]

    def observe(layer: int, activation: torch.Tensor, hidden: torch.Tensor) -> None:
        for statistic in kept:
            statistic.add(layer, activation[:, 1:], hidden[:, 1:])

    with observe_ffn(model.ffns, observe):
        model.hidden_states(batch)
        with profiler(activities=[ProfilerActivity.CUDA]) as taken:
            model.hidden_states(batch)
            torch.cuda.synchronize()
    print(taken.key_averages().table(sort_by="cuda_time_total", row_limit=24, max_name_column_width=60))


if __name__ == "__main__":
    main()
