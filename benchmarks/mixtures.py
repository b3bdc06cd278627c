"""What recording a native mixture of experts costs beside its bare pass, for each implementation of transformers.

    python benchmarks/mixtures.py                     # a Mixtral-like model of 8 experts, on a CPU
    python benchmarks/mixtures.py --device cuda --dtype bfloat16 --width 2048 --layers 8 --batch 16384

All arms of a row run in turns. The weights are random, since what is computed does not depend on them.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import Row, measure, write

import neuroglot as ng
from neuroglot.artifacts.provenance import Provenance
from neuroglot.recording.worker import Work, record_shard
from neuroglot.tokens.shard_stream import Shard

BLOCK = 512
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
STATISTICS = {"active": ("active",), "active, activation, hidden": ("active", "activation", "hidden")}


def network(width: int, layers: int, experts: int, chosen: int) -> torch.nn.Module:
    """A Mixtral with random weights."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=512, hidden_size=width, intermediate_size=width * 7 // 2, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 128, num_local_experts=experts,
        num_experts_per_tok=chosen, max_position_embeddings=BLOCK,
    )  # fmt: skip
    return MixtralForCausalLM(config)


class Setting:
    """A model and the tokens that every arm reads."""

    def __init__(self, model: ng.Model, tokens: int, batch: int):
        generator = torch.Generator().manual_seed(1)
        self.model, self.batch = model, batch
        self.blocks = torch.randint(0, 512, (tokens // BLOCK, BLOCK), generator=generator)
        self.shard = Shard("en", 0, "", self.blocks)

    @torch.inference_mode()
    def bare(self) -> None:
        """The body over the blocks."""
        for blocks in self.shard.blocks.to(self.model.device).split(max(1, self.batch // BLOCK)):
            self.model.hidden_states(blocks)
        self.wait()

    def record(self, statistics: tuple[str, ...]) -> None:
        """The same blocks, recorded."""
        about = Provenance(model="", fingerprint="", tokenizer="", block=BLOCK)
        work = Work(statistics, None, (), self.batch, about)
        record_shard(self.model, self.shard, work.kept(self.model), work)
        self.wait()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()

    def _slow(self, implementation: str) -> bool:
        """Whether it copies an expert's weights for every token, which takes a CPU minutes."""
        return implementation == "batched_mm" and self.model.device.type == "cpu"

    def row(self, implementation: str, repeats: int) -> Row:
        """All arms of one implementation, in turns."""
        self.model.network.set_experts_implementation(implementation)
        blocks = self.blocks[:, : BLOCK // 8][:2] if self._slow(implementation) else self.blocks
        self.shard = Shard("en", 0, "", blocks)
        arms: dict[str, Callable[[], object]] = {
            f"recording {name}": lambda names=names: self.record(names) for name, names in STATISTICS.items()
        }
        arms["bare pass"] = self.bare
        tokens = self.shard.blocks.numel()
        clock = time.perf_counter if self.model.device.type == "cuda" else time.process_time  # others may be busy
        row = measure(implementation, arms, base="bare pass", repeats=repeats, tokens=tokens, clock=clock)
        print("\n".join(row.lines()), flush=True)
        return row


def main() -> None:
    """The table, printed and saved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256, help="of the residual stream")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--chosen", type=int, default=2, help="experts a token")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=1024, help="tokens a forward pass")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", nargs="*", default=IMPLEMENTATIONS, help="implementations")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mixtures"))
    said = parser.parse_args()
    made = network(said.width, said.layers, said.experts, said.chosen)
    made = made.to(said.device, getattr(torch, said.dtype))
    from transformers import ByT5Tokenizer  # which needs no file

    setting = Setting(ng.Model(made, ByT5Tokenizer()), said.tokens, said.batch)
    write([setting.row(name, said.repeats) for name in said.only], said.out)


if __name__ == "__main__":
    main()
