"""Train a multilingual Llama of 20 to 60 million parameters from nothing on real text, and save it as it grows.

    python examples/train_multilingual/train.py llama TEXT --held-out PARALLEL --minutes 6     # one GPU
    neuroglot evolve llama/step-* --corpus PARALLEL --out runs/llama

TEXT is what `neuroglot record` reads, such as a directory of LANGUAGE.txt. PARALLEL is a parallel corpus. Its
paragraphs are taken out of the text wherever they stand in it, so that nothing `evolve` measures was trained on.

Rows are packed paragraphs of one language. Languages are drawn by the power 0.5 of their tokens, so that the small ones
are seen too. Nothing tells the model which paragraphs mean the same.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

import neuroglot as ng

POWER = 0.5
"""Of a language's tokens, in the chance that a row is of it."""


def byte_pairs(texts: dict[str, list[str]], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on the same number of characters of each language."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    share = min(sum(map(len, paragraphs)) for paragraphs in texts.values())

    def equal_parts():
        for paragraphs in texts.values():
            left = share
            for paragraph in paragraphs:
                if left <= 0:
                    break
                left -= len(paragraph)
                yield paragraph

    tokenizer.train_from_iterator(equal_parts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", add_bos_token=True, eos_token="</s>", pad_token="</s>",
        model_max_length=1024,
    )  # fmt: skip


def llama(vocabulary: int, width: int, layers: int, neurons: int, heads: int) -> LlamaForCausalLM:
    """A fresh Llama; head and embedding are tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=neurons, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def steps_to_save(last: int) -> list[int]:
    """0, and powers of two up to the last step: as many checkpoints early as late, where most changes early."""
    return [0, *(2**power for power in range(3, last.bit_length()) if 2**power < last), last]


def packed(tokenizer: PreTrainedTokenizerFast, paragraphs: list[str], length: int) -> np.ndarray:
    """Rows (rows, length) of a language: paragraphs joined by line breaks, without BOS."""
    ids: list[int] = []
    for start in range(0, len(paragraphs), 4096):
        piece = [paragraph + "\n" for paragraph in paragraphs[start : start + 4096]]
        for row in tokenizer(piece, add_special_tokens=False)["input_ids"]:
            ids += row
    whole = len(ids) // length * length
    return np.asarray(ids[:whole], dtype=np.int32).reshape(-1, length)


def train(path: Path, text: str, held_out: str, given: argparse.Namespace) -> None:
    """Read, train, save; `path/log.jsonl` has the loss, the tokens read and the seconds."""
    torch.manual_seed(given.seed)
    draw = np.random.default_rng(given.seed)
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kept = {paragraph for _, sample in ng.load_corpus(held_out).samples() for paragraph in sample.values()}
    corpus = ng.load_corpus(text)
    texts = {tag: [part for part in corpus[tag] if part not in kept] for tag in corpus.languages}
    tokenizer = byte_pairs(texts, given.vocabulary)
    rows = {tag: packed(tokenizer, paragraphs, given.length - 1) for tag, paragraphs in texts.items()}
    sizes = np.array([max(part.size, 1) for part in rows.values()], dtype=float)
    chance = sizes**POWER / (sizes**POWER).sum()
    network = llama(len(tokenizer), given.width, given.layers, given.neurons, given.heads).to(device)
    parameters = sum(weight.numel() for weight in network.parameters())
    print(f"{parameters / 1e6:.1f} M parameters; " + ", ".join(
        f"{tag} {part.size:,} tokens" for tag, part in rows.items()), flush=True)  # fmt: skip
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=given.rate, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
    )
    path.mkdir(parents=True, exist_ok=True)
    log = (path / "log.jsonl").open("w", encoding="utf-8")
    save, warmup, begun = set(steps_to_save(given.steps)), max(1, given.steps // 20), time.monotonic()
    languages = list(rows)
    for step in range(given.steps + 1):
        over = step == given.steps or time.monotonic() - begun > 60 * given.minutes
        if step in save or over:
            network.save_pretrained(path / f"step-{step:06d}")
            tokenizer.save_pretrained(path / f"step-{step:06d}")
        if over:
            break
        for group in optimizer.param_groups:
            group["lr"] = given.rate * min((step + 1) / warmup, 1 - 0.9 * step / given.steps)
        of = draw.choice(len(languages), given.batch, p=chance)
        drawn = [rows[languages[one]] for one in of]
        block = np.stack([part[draw.integers(len(part))] for part in drawn])
        tokens = torch.from_numpy(np.pad(block, ((0, 0), (1, 0)), constant_values=0)).long().to(device)  # 0 is BOS
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(tokens[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            line = {"step": step, "loss": round(loss.item(), 4), "tokens": step * given.batch * given.length,
                    "seconds": round(time.monotonic() - begun, 1)}  # fmt: skip
            print(json.dumps(line), file=log, flush=True)
            print(f"step {step:6d}  loss {line['loss']:.2f}  {line['seconds']:.0f} s", flush=True)
    log.close()
    print(f"saved in {path}")


def main() -> None:
    """Sizes and times have defaults for one GPU."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("path", type=Path, help="where the checkpoints go")
    arguments.add_argument("text", help="what to train on, as `neuroglot record` takes it")
    arguments.add_argument("--held-out", required=True, help="a parallel corpus whose paragraphs are not trained on")
    arguments.add_argument("--vocabulary", type=int, default=32_000)
    arguments.add_argument("--width", type=int, default=512)
    arguments.add_argument("--layers", type=int, default=8)
    arguments.add_argument("--neurons", type=int, default=1536, help="a layer")
    arguments.add_argument("--heads", type=int, default=8)
    arguments.add_argument("--length", type=int, default=256, help="tokens a row, BOS among them")
    arguments.add_argument("--batch", type=int, default=128, help="rows a step")
    arguments.add_argument("--steps", type=int, default=4096)
    arguments.add_argument("--minutes", type=float, default=6, help="stop after so long")
    arguments.add_argument("--rate", type=float, default=1.5e-3)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--device", help="such as cuda:1; by default a GPU if there is one")
    given = arguments.parse_args()
    logging.disable_progress_bar()
    train(given.path, given.text, given.held_out, given)


if __name__ == "__main__":
    main()
