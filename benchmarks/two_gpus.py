"""Two GPUs of one host: two workers beside one, and one model over both, with random weights.

    python benchmarks/two_gpus.py workers [--folder /tmp/7b]     # 7B shape, bf16: recording and generation
    python benchmarks/two_gpus.py split                          # 34B shape, bf16: half of the layers on each

`workers` writes a checkpoint of 13 GB, since workers open the model themselves; what opening takes is told apart.
`split` compares three passes over the same batches: the naive one, which waits for every batch; recording, which lets
the first GPU begin a batch while the second one is at the batch before; and the bare body, which is the limit.
"""

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

import neuroglot as ng

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny  # its byte tokenizer

SHAPES = {
    "7b": {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32},
    "34b": {"vocab_size": 32_000, "hidden_size": 8192, "intermediate_size": 22_016, "num_hidden_layers": 48,
            "num_attention_heads": 64, "num_key_value_heads": 8},
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 4},
}  # fmt: skip


NAIVE = "naive split, waiting for every batch"


def settle() -> None:
    for gpu in range(torch.cuda.device_count()):
        torch.cuda.synchronize(gpu)


def seconds(run: Callable[[], object]) -> float:
    settle()
    start = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - start


def config(shape: str) -> LlamaConfig:
    return AutoConfig.for_model("llama", **SHAPES[shape], max_position_embeddings=4096, tie_word_embeddings=False)


def random_text(tokens: int, languages: tuple[str, ...]) -> ng.Corpus:
    """Letters for the byte tokenizer, which makes a token of each."""
    draw = torch.Generator().manual_seed(0)
    letters = torch.randint(97, 123, (len(languages), tokens + 4096), generator=draw).to(torch.uint8)
    return ng.Corpus({tag: [bytes(row.tolist()).decode()] for tag, row in zip(languages, letters, strict=True)})


def workers(given: argparse.Namespace) -> dict[str, Any]:
    folder = Path(given.folder or tempfile.mkdtemp())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        with torch.device(device):
            network = AutoModelForCausalLM.from_config(config(given.shape), dtype=torch.bfloat16)
        network.save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        del network
        if device == "cuda":
            torch.cuda.empty_cache()
    model = ng.load_model(folder, dtype="bfloat16")
    corpus = random_text(given.tokens, ("en", "fr"))
    prompts = [f"{number:04d} " + "abcdefgh" * 4 for number in range(given.prompts)]
    with torch.inference_mode():
        one = measured(model, corpus, prompts, given.tokens)
    with ng.with_workers(model, given.workers):
        several = measured(model, corpus, prompts, given.tokens)
    recorded, texts = ([each.pop(name) for each in (one, several)] for name in ("file", "texts"))
    return {
        "1 worker": one,
        f"{given.workers} workers": several,
        "recording x": several["recording, tokens/s"] / one["recording, tokens/s"],
        "generation x": several["generation, tokens/s"] / one["generation, tokens/s"],
        "same recording, to the byte": recorded[0] == recorded[1],
        "share of texts that are the same": sum(map(eq, *texts)) / len(prompts),
    }


def measured(model: ng.Model, corpus: ng.Corpus, prompts: list[str], tokens: int) -> dict[str, Any]:
    """Rates when everything is open and warm, and what was made."""

    def record(tokens: int) -> ng.Recording:
        return ng.record(model, corpus, tokens=tokens, block=2048, shard_tokens=16_384, progress=False)

    found: dict[str, Any] = {"opening and a first recording, s": round(seconds(lambda: record(32_768)), 1)}
    made: list[Any] = []
    taken = seconds(lambda: made.append(record(tokens)))
    ng.evaluate.generate(model, prompts, tokens=64)
    writing = seconds(lambda: made.append(ng.evaluate.generate(model, prompts, tokens=64)))
    with tempfile.TemporaryDirectory() as place:
        made[0].save(Path(place) / "recording.safetensors")
        found["file"] = (Path(place) / "recording.safetensors").read_bytes()
    found["texts"] = made[1]
    found["recording, tokens/s"] = round(2 * tokens / taken)
    found["generation, tokens/s"] = round(64 * len(prompts) / writing)
    return found


def split_model(shape: str) -> ng.Model:
    """Random weights, the first half of the layers on one GPU and the rest on the other."""
    from accelerate import dispatch_model

    from neuroglot.models.architecture.devices import launch_ahead

    launch_ahead()  # as load_model does with a device map
    settings = config(shape)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(settings, dtype=torch.bfloat16)
    half = settings.num_hidden_layers // 2
    if not torch.cuda.is_available():  # to try this script
        return ng.Model(AutoModelForCausalLM.from_config(settings), tiny.tokenizer(), name=f"random {shape}")
    places = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
    places |= {f"model.layers.{layer}": int(layer >= half) for layer in range(settings.num_hidden_layers)}
    for name, place in places.items():
        module = network.get_submodule(name).to_empty(device=f"cuda:{place}")
        for weight in module.parameters():
            torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else torch.nn.init.ones_(weight)
    network.model.rotary_emb = type(network.model.rotary_emb)(settings).to("cuda:0")
    return ng.Model(dispatch_model(network, places).eval(), tiny.tokenizer(), name=f"random {shape}")


@torch.inference_mode()
def split(given: argparse.Namespace) -> dict[str, Any]:
    model = split_model(given.shape)
    corpus = random_text(given.tokens, ("en", "fr"))
    size, rates = given.batch_tokens, {}
    blocks = torch.randint(97, 123, (2 * given.tokens // 2048, 2048))
    batches = blocks.split(size // 2048)

    def rate(name: str, tokens: int, run: Callable[[], object]) -> None:
        rates[name] = round(tokens / seconds(run))
        print(name, rates[name], flush=True)  # what a cut-off run leaves

    def record(tokens: int) -> None:
        ng.record(
            model, corpus, tokens=tokens, block=2048, shard_tokens=tokens, batch_tokens=size,
            statistics=["active", "activation", "hidden"], progress=False,
        )  # fmt: skip

    def bare(waiting: bool, count: int | None = None) -> None:
        for batch in batches[:count]:
            model.hidden_states(batch.to(model.device))
            if waiting:
                settle()

    off = torch.zeros(model.layers, max(model.widths), dtype=torch.bool)
    off[:, :100] = True
    if "recording" in given.parts:
        record(2 * size)
        bare(False, 3)
        rate(NAIVE, 2 * given.tokens, lambda: bare(True))
        rate("bare pass, batches in flight", 2 * given.tokens, lambda: bare(False))
        rate("recording", 2 * given.tokens, lambda: record(given.tokens))
    if "perplexity" in given.parts:

        def perplexity(tokens: int) -> None:
            ng.evaluate.perplexity(model, corpus, tokens=tokens, block=2048, batch_tokens=size, progress=False)

        with ng.intervene(model, ng.Deactivate(off)):
            perplexity(2 * size)
            rate("perplexity with neurons off", given.tokens, lambda: perplexity(given.tokens // 2))
    if "generation" in given.parts:
        condition = ng.evaluate.Condition("off", (ng.Deactivate(off),))
        for count, engine in ((32, "huggingface"), (32, "auto"), (256, "auto")):

            def write(tokens: int, count: int = count, engine: str = engine) -> list[str]:
                prompts = [f"{number:03d} " + "abcdefgh " * 4 for number in range(count)]
                return ng.evaluate.generate(model, prompts, tokens=tokens, recipes=[condition] * count, engine=engine)

            new = 16 if engine == "huggingface" else 64
            write(new)
            rate(f"generation, {count} prompts, {engine}", count * new, partial(write, new))
    rates["launch queues"] = os.environ.get("CUDA_SCALE_LAUNCH_QUEUES", "")
    found: dict[str, Any] = {"tokens/s": rates}
    if NAIVE in rates:
        found["of the naive split"] = {
            name: round(number / rates[NAIVE], 3) for name, number in rates.items() if isinstance(number, int)
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["workers", "split"])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--folder", help="where the checkpoint is, or goes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=131_072, help="of each of two languages")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--parts", nargs="+", default=["recording", "perplexity", "generation"], help="of split")
    given = parser.parse_args()
    logging.basicConfig()
    logging.getLogger("neuroglot.generation").setLevel(logging.DEBUG)  # what is not captured or fused, and why
    given.shape = given.shape or {"workers": "7b", "split": "34b"}[given.what]
    found = workers(given) if given.what == "workers" else split(given)
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ) if torch.cuda.is_available() else None  # fmt: skip
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    found["machine"] = {
        "commit": commit.stdout.strip(),
        "gpus": driver.stdout.strip().splitlines() if driver else platform.processor(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
