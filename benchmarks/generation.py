"""Generation beside transformers' `generate`, its continuous batching, and what the weights' bytes allow: one table.

    python benchmarks/generation.py --shape llama-2-7b                # random weights, on one GPU
    python benchmarks/generation.py --model gemma3-270m --batches 8 32

Random weights time like trained ones: the arithmetic is the same. Rates are new tokens a second of whole calls, prompts
included.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import neuroglot as ng
from neuroglot.generation.engine import generate

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny  # its byte tokenizer

SHAPES = {
    "llama-2-7b": ("llama", {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32,
    }),
    "qwen2.5-0.5b": ("qwen2", {
        "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    }),
}  # fmt: skip
PROMPT = 40
INSIDE = "by `intervene`"
"""What the names of calls end with that run inside its block; one that is opened anew has its step captured anew."""


def opened(arguments: argparse.Namespace) -> ng.Model:
    if arguments.model:
        return endless(ng.load_model(arguments.model))
    family, shape = SHAPES[arguments.shape]
    config = AutoConfig.for_model(family, max_position_embeddings=4096, eos_token_id=None, bos_token_id=None, **shape)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return endless(ng.Model(network, tiny.tokenizer(bos=False), name=arguments.shape))


def endless(model: ng.Model) -> ng.Model:
    """The model without a token that ends an answer, so that every answer has all its tokens."""
    model.tokenizer.eos_token = model.text_config.eos_token_id = None
    model.network.generation_config.eos_token_id = None
    return model


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        run()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def copy_rate(device: torch.device) -> float:
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(1 << (30 if device.type == "cuda" else 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(lambda: target.copy_(source), 5)


def step_bytes(model: ng.Model, batch: int, length: float) -> float:
    """What a step must read: every weight but the embeddings (unless tied), and the keys and values so far."""
    config, network = model.text_config, model.network
    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    if network.get_output_embeddings().weight is not network.get_input_embeddings().weight:
        table = network.get_input_embeddings().weight
        weights -= table.numel() * table.element_size()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weights + batch * length * 2 * config.num_hidden_layers * heads * width * network.dtype.itemsize


def table(model: ng.Model, batches: list[int], new: int, repeats: int, rivals: bool) -> None:
    rate = copy_rate(model.device)
    print(f"{model.name}, {model.network.dtype}, prompts of {PROMPT} tokens, {new} new ones; a copy moves ", end="")
    print(f"{rate / 1e9:,.0f} GB/s\n\n{'':44}{'batch':>6}{'tokens/s':>12}{'ms a step':>12}{'of limit':>10}")
    off = ng.Deactivate(torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < 0.01)
    runs = [(batch, *run) for batch in batches for run in ours(model, batch, new)]
    if rivals:
        found = [(batch, *run) for batch in batches for run in theirs(model, batch, new)]
        # continuous batching last: its cache takes what memory there is
        runs += sorted(found, key=lambda run: "continuous" in run[1])
    for batch, name, run in runs:
        least = step_bytes(model, batch, PROMPT + new / 2) / rate
        try:
            with ng.intervene(model, off) if name.endswith(INSIDE) else nullcontext():
                taken = seconds(run, 1 if name.startswith("transformers") else repeats)
        except Exception as error:  # rivals change from release to release
            if not name.startswith("transformers"):
                raise
            print(f"{name:44}{batch:6}  failed: {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        each = f"{batch * new / taken:12,.0f}{taken / new * 1000:12.2f}{least * new / taken:10.1%}"
        print(f"{name:44}{batch:6}{each}", flush=True)


def ours(model: ng.Model, batch: int, new: int) -> list[tuple[str, Callable[[], object]]]:
    """A call of each way to write, by name."""
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(model.layers, model.neurons, generator=generator) < 0.01 for _ in range(batch)]
    one, *_ = many = [ng.evaluate.Condition("off", (ng.Deactivate(mask),)) for mask in masks]
    text = ["".join(chr(97 + (7 * i + j * (i + 1)) % 26) for j in range(PROMPT)) for i in range(batch)]

    def write(recipes: list[Any] | None = None) -> None:
        generate(model, text, recipes=recipes, tokens=new, batch=batch)

    return [
        ("intact", write),
        ("1 % off, by recipe", lambda: write([one] * batch)),
        (f"1 % off, {INSIDE}", write),
        ("a recipe a row", lambda: write(many)),
    ]


def theirs(model: ng.Model, batch: int, new: int) -> list[tuple[str, Callable[[], object]]]:
    """The same with transformers alone. Each checks that it wrote what was asked for."""
    from transformers import GenerationConfig

    ids = torch.randint(0, 256, (batch, PROMPT), device=model.device)

    def plain() -> None:
        settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        output = model.network.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        complete([row[PROMPT:] for row in output.tolist()], batch, new)

    def continuous() -> None:
        settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
        found = model.network.generate_batch(inputs=ids.tolist(), generation_config=settings, progress_bar=False)
        complete([answer.generated_tokens for answer in found.values()], batch, new)

    return [
        ("transformers, generate", plain),
        (f"transformers, generate, 1 % off {INSIDE}", plain),
        ("transformers, continuous batching", continuous),
    ]


def complete(answers: Sequence[Sequence[int]], batch: int, new: int) -> None:
    """A loop that failed in a thread of its own returns early and raises nothing, so its time would pass for a rate."""
    lengths = [len(answer) for answer in answers]
    if lengths != [new] * batch:
        raise RuntimeError(f"{sum(lengths)} tokens of {len(lengths)} answers came back, not {new} of each of {batch}")


def equal_texts(model: ng.Model, new: int = 32, count: int = 64) -> None:
    """The share of texts equal to the reference's, beside the reference's own at another batch size."""
    text = [f"{i} times the same words in another order, {i * i}"[: 12 + i % 20] for i in range(count)]
    reference = generate(model, text, tokens=new, engine="huggingface", batch=16)
    share = lambda made: sum(a == b for a, b in zip(made, reference, strict=True)) / count  # noqa: E731
    print(f"\ntexts equal to the reference's at a batch of 16 ({model.network.dtype}, greedy, {new} tokens):")
    for name, how in {
        "reference, batch 4": {"engine": "huggingface", "batch": 4},
        "reference, batch 64": {"engine": "huggingface", "batch": 64},
        "continuous, batch 16": {"batch": 16},
        "continuous, batch 64": {"batch": 64},
    }.items():
        print(f"  {name:24}{share(generate(model, text, tokens=new, **how)):8.0%}", flush=True)


def profile(model: ng.Model, batch: int) -> None:
    """Where the time of steps goes, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    text = ["".join(chr(97 + (7 * i + j) % 26) for j in range(PROMPT)) for i in range(batch)]
    generate(model, text, tokens=32, batch=batch)
    with profiler(activities=[ProfilerActivity.CUDA]) as taken:
        generate(model, text, tokens=32, batch=batch)
        wait()
    print(taken.key_averages().table(sort_by="cuda_time_total", row_limit=22, max_name_column_width=70))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--model", help="a model that `load_model` opens, in place of a shape")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128, 256])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--equal", action="store_true", help="also the share of texts equal to the reference's")
    parser.add_argument("--profile", type=int, help="also where the time goes at this batch")
    arguments = parser.parse_args()
    model = opened(arguments)
    with torch.no_grad():  # not inference mode, whose tensors continuous batching's own thread may not change
        table(model, arguments.batches, arguments.tokens, arguments.repeats, not arguments.no_rivals)
        if arguments.equal:
            equal_texts(model)
        if arguments.profile:
            profile(model, arguments.profile)


if __name__ == "__main__":
    main()
