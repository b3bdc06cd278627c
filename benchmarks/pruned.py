"""Is a pruned model faster? Its forward pass over the intact one's, beside the ratio of their FLOPs.

    python benchmarks/pruned.py                        # a decoder of Llama 2 7B's shape, 2 layers, random weights
    python benchmarks/pruned.py MODEL PRUNED_MODEL     # two models on disk

Passes alternate, so that a change of the machine's speed meets both; the ratio is that of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import neuroglot as ng
from neuroglot.pruning.size import size

TOKENS, REPEATS = 256, 9


def timed(model: ng.Model, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    model.hidden_states(ids)
    return time.perf_counter() - start


@torch.inference_mode()
def compare(intact: ng.Model, pruned: ng.Model) -> None:
    """Time both in turns and print medians and ratios."""
    ids = torch.randint(0, 1000, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {"intact": [], "pruned": []}
    for repeat in range(REPEATS + 1):
        for name, model in (("intact", intact), ("pruned", pruned)):
            taken = timed(model, ids)
            if repeat:  # the first warms up
                seconds[name].append(taken)
    before, after = size(intact.network), size(pruned.network)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["pruned"] / medians["intact"]
    flops = after.body_flops / before.body_flops
    print(f"FFN parameters × {after.ffn_parameters / before.ffn_parameters:.3f}, body FLOPs × {flops:.3f}")
    print(f"seconds a pass of {TOKENS} tokens: intact {medians['intact']:.3f}, pruned {medians['pruned']:.3f}")
    print(f"time × {ratio:.3f}, {ratio / flops - 1:+.1%} from the FLOPs' ratio")


def main() -> None:
    """Compare two models on disk, or a random one and what is left of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="an intact model and a pruned one; by default random ones")
    if models := parser.parse_args().models:
        compare(*map(ng.load_model, models))
        return
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=2, num_attention_heads=32, vocab_size=1024
    )
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    model = ng.Model(LlamaForCausalLM(config).eval(), tokenizer, "llama-2-7b's shape")
    keep = torch.rand(model.layers, model.neurons) < torch.tensor([0.85, 0.65])[:, None]
    with tempfile.TemporaryDirectory() as folder:
        compare(model, ng.load_model(ng.prune(model, keep, Path(folder) / "pruned")))


if __name__ == "__main__":
    main()
