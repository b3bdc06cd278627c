"""What it costs that an activation function is called in line, and what finding and proving a model's FFNs takes.

    python benchmarks/discovered.py                     # a Llama of 24 layers of width 256, on a CPU
    python benchmarks/discovered.py --device cuda --dtype bfloat16 --width 4096 --tokens 65536 --batch 16384
    python benchmarks/discovered.py --dtype bfloat16 --width 4096 --layers 32 --opening      # the shape of a 7B model

One network is written in two ways: with its activation function as a module, and called in line, as LFM 2 does. All
arms of a row run in turns. The weights are random, since what is computed does not depend on them.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from side_by_side import Row, measure, write
from torch import Tensor, nn
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.artifacts.provenance import Provenance
from neuroglot.models.architecture import proof
from neuroglot.models.architecture.find import discovered
from neuroglot.recording.worker import Work, record_shard
from neuroglot.tokens.shard_stream import Shard

BLOCK = 512
STATISTICS = ("active", "activation", "hidden")


class Inline(nn.Module):
    """A gated FFN that calls its activation function in its own forward."""

    def __init__(self, ffn: Any):
        super().__init__()
        self.w1, self.w3, self.w2 = ffn.gate_proj, ffn.up_proj, ffn.down_proj

    def forward(self, x: Tensor) -> Tensor:
        """What the FFN gives."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


def network(width: int, layers: int) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=width * 11 // 4, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=BLOCK,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Setting:
    """Both ways of writing it, and the tokens that every arm reads."""

    def __init__(self, made: Any, tokens: int, batch: int):
        from transformers import ByT5Tokenizer  # which needs no file

        generator = torch.Generator().manual_seed(1)
        self.batch = batch
        self.shard = Shard("en", 0, "", torch.randint(0, 512, (tokens // BLOCK, BLOCK), generator=generator))
        self.usual = ng.Model(made, ByT5Tokenizer())
        self.modules = [layer.mlp for layer in made.model.layers]
        self.layers = made.model.layers
        self.inline_modules = [Inline(each) for each in self.modules]
        self.write(self.inline_modules)
        self.inline = ng.Model(made, ByT5Tokenizer())

    def write(self, ffns: list[Any]) -> None:
        """Put these FFNs into the layers."""
        for layer, ffn in zip(self.layers, ffns, strict=True):
            layer.mlp = ffn

    @torch.inference_mode()
    def bare(self, ffns: list[Any]) -> None:
        """The body over the blocks."""
        self.write(ffns)
        for blocks in self.shard.blocks.to(self.usual.device).split(max(1, self.batch // BLOCK)):
            self.usual.hidden_states(blocks)
        self.wait()

    def record(self, model: ng.Model, ffns: list[Any]) -> None:
        """The same blocks, recorded."""
        self.write(ffns)
        about = Provenance(model="", fingerprint="", tokenizer="", block=BLOCK)
        work = Work(STATISTICS, None, (), self.batch, about)
        record_shard(model, self.shard, work.kept(model), work)
        self.wait()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.usual.device.type == "cuda":
            torch.cuda.synchronize()

    def rows(self, repeats: int, *, opening_only: bool) -> list[Row]:
        """Recording in both ways, and opening."""
        clock = time.perf_counter if self.usual.device.type == "cuda" else time.process_time  # others may be busy
        tokens = self.shard.blocks.numel()
        recording = {
            "called in line": lambda: self.record(self.inline, self.inline_modules),
            "a module": lambda: self.record(self.usual, self.modules),
            "bare pass": lambda: self.bare(self.modules),
        }
        opening = {
            "found": lambda: discovered(self.usual.network),
            "proved": self.prove,
            "proved before": self.prove_again,
            "a pass of 4 tokens": self.short,
        }
        result = []
        measured = [
            ("activation, recorded", recording, "bare pass", tokens),
            ("opening", opening, "a pass of 4 tokens", 0),
        ]
        for name, arms, base, read in measured[opening_only:]:
            self.write(self.modules)
            row = measure(name, arms, base=base, repeats=repeats, tokens=read, clock=clock)
            print("\n".join(row.lines()), flush=True)
            result.append(row)
        return result

    def prove(self) -> None:
        """As at the first load of a model."""
        proof._proved.clear()
        with TemporaryDirectory() as folder:
            proof.prove_once(self.usual.network, self.usual.ffns, Path(folder))
        self.wait()

    def prove_again(self) -> None:
        """As in another process, which finds what is kept."""
        proof._proved.clear()
        with TemporaryDirectory() as folder:
            kept = Path(folder) / "proofs" / f"{proof._built(self.usual.network, self.usual.ffns)}.json"
            kept.parent.mkdir()
            kept.write_text("{}")
            proof.prove_once(self.usual.network, self.usual.ffns, Path(folder))

    @torch.inference_mode()
    def short(self) -> None:
        """As many tokens as are read for a proof."""
        self.usual.hidden_states(self.shard.blocks[:1, :4])
        self.wait()


def main() -> None:
    """The table, printed and saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="of the residual stream")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1024, help="tokens a forward pass")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/discovered"))
    parser.add_argument("--opening", action="store_true", help="measure opening alone")
    said = parser.parse_args()
    torch.set_default_dtype(getattr(torch, said.dtype))  # so that no weight is ever larger
    made = network(said.width, said.layers).to(said.device)
    write(Setting(made, said.tokens, said.batch).rows(said.repeats, opening_only=said.opening), said.out)


if __name__ == "__main__":
    main()
