"""What Ray costs: two workers of one thread each against one process of two threads, over the same shards.

    python benchmarks/cluster.py [--tokens 60000] [--repeats 5]

A random Llama of 8 layers, large enough that the model is what takes the time. Starting Ray and opening the models is
told apart from the pass by recording a few shards and many: what the others take more is the pass. Both
ways take turns, so that a machine whose speed drifts slows both.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import neuroglot as ng
from neuroglot.recording.engines.ray_cluster import RayEngine

SHARD = 4096


def checkpoint(path: Path) -> Path:
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(BPE({name: index for index, name in enumerate([*names, "<s>"])}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", add_bos_token=True).save_pretrained(path)
    size = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=257, max_position_embeddings=512, **size)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        model = ng.load_model(checkpoint(Path(folder)))
        corpus = ng.Corpus({"en": [f"{i} lines, each with some words of its own, {i * i}" for i in range(10**5)]})
        engines = {"one process of 2 threads": None, "two Ray workers of 1": RayEngine(2, 0, 1)}
        passes: dict[str, list[float]] = {name: [] for name in engines}
        starts: dict[str, list[float]] = {name: [] for name in engines}
        size = {"block": 256, "shard_tokens": SHARD, "progress": False}
        for repeat in range(arguments.repeats + 1):  # the first is to warm up
            for name, engine in engines.items():
                taken = []
                for tokens in (4 * SHARD, 4 * SHARD + arguments.tokens):
                    begun = time.perf_counter()
                    ng.record(model, corpus, tokens=tokens, engine=engine, **size)
                    taken.append(time.perf_counter() - begun)
                if repeat:
                    passes[name].append(taken[1] - taken[0])
                    starts[name].append(taken[0])
    print(f"{arguments.tokens:,} tokens in shards of {SHARD}, {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}\n")
    one, two = passes.values()
    for name, taken in passes.items():
        first = statistics.median(starts[name])
        print(f"{name:28}{statistics.median(taken):8.1f} s of pass; 4 shards with all that comes before {first:6.1f} s")
    ratios = sorted(b / a for a, b in zip(one, two, strict=True))
    print(f"ratio {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
