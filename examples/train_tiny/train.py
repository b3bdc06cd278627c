"""Train a tiny multilingual Llama on the starter corpus, and save it as it grows.

    python examples/train_tiny/train.py tiny          # under 10 minutes on 2 cores
    neuroglot evolve tiny/step-* --corpus starter --out runs/tiny

Half of what it reads are single sentences, and half are sentences followed by their translation, so that a small
model on little text has a reason to find out which sentences mean the same.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func
from transformers.utils import logging

import neuroglot as ng


def byte_pairs(corpus: ng.Corpus, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the corpus; with 258, a token a byte."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for tag in corpus.languages for text in corpus[tag]), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        add_bos_token=True,
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=512,
    )


def llama(vocabulary: int, *, width: int, layers: int, neurons: int, heads: int = 4) -> LlamaForCausalLM:
    """A fresh Llama."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=neurons,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def olmoe(
    vocabulary: int, *, width: int, layers: int, neurons: int, experts: int, top: int = 2, heads: int = 4
) -> OlmoeForCausalLM:
    """A fresh OLMoE: as many neurons a layer, in experts of which each token is given `top`."""
    return OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=neurons // experts,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            num_experts=experts,
            num_experts_per_tok=top,
            norm_topk_prob=True,
            output_router_logits=True,
            router_aux_loss_coef=0.01,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def batches(
    corpus: ng.Corpus, tokenizer: PreTrainedTokenizerFast, *, batch: int, length: int, translated: float, seed: int
) -> Iterator[torch.Tensor]:
    """Endless rows (batch, length): BOS, then sentences or sentences with a translation, cut at the end."""
    draw = random.Random(seed)
    samples = [
        {tag: tokenizer(text + "\n", add_special_tokens=False)["input_ids"] for tag, text in texts.items() if text}
        for _, texts in corpus.samples()
    ]
    languages = corpus.languages

    def piece(language: str) -> list[int]:
        sample = draw.choice(samples)
        if draw.random() < translated:
            return sample[language] + sample[draw.choice(languages)]
        return sample[language]

    while True:
        rows = []
        for _ in range(batch):
            language, row = draw.choice(languages), [tokenizer.bos_token_id]
            while len(row) < length:
                row += piece(language)
            rows.append(row[:length])
        yield torch.tensor(rows)


def train(
    corpus: ng.Corpus,
    *,
    vocabulary: int = 4096,
    width: int = 160,
    layers: int = 4,
    neurons: int = 640,
    experts: int = 0,
    batch: int = 8,
    length: int = 128,
    steps: int = 1000,
    rate: float = 2e-3,
    translated: float = 0.5,
    seed: int = 0,
    minutes: float | None = None,
    save: Sequence[int] = (),
    path: Path | None = None,
    say: bool = True,
) -> ng.Model:
    """Train a model from nothing on a parallel corpus.

    Args:
        corpus: parallel; what is measured should be held out of it.
        vocabulary: of the tokenizer; width, layers and neurons (a layer) of the model.
        experts: in which a layer's neurons are, of an OLMoE; 0 is a dense Llama.
        batch: rows a step, of `length` tokens each.
        steps: how many; the learning rate rises over the first 5 % to `rate` and falls to a tenth of it.
        translated: the share of sentences that are followed by a translation.
        seed: of everything random.
        minutes: stop after so long, whatever the step.
        save: the steps after which a checkpoint is saved as `path/step-00100`; the last one always is.
        path: where.
        say: print the loss now and then.
    """
    torch.manual_seed(seed)
    tokenizer = byte_pairs(corpus, vocabulary)
    shape = {"width": width, "layers": layers, "neurons": neurons}
    network = olmoe(len(tokenizer), experts=experts, **shape) if experts else llama(len(tokenizer), **shape)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    rows = batches(corpus, tokenizer, batch=batch, length=length, translated=translated, seed=seed)
    begun = time.monotonic()

    def checkpoint(step: int) -> None:
        if path is not None:
            network.save_pretrained(path / f"step-{step:05d}")
            tokenizer.save_pretrained(path / f"step-{step:05d}")

    warmup = max(1, steps // 20)
    for step in range(steps + 1):
        over = step == steps or (minutes is not None and time.monotonic() - begun > 60 * minutes)
        if step in save or over:
            checkpoint(step)
        if over:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate * min((step + 1) / warmup, 1 - 0.9 * step / steps)
        tokens = next(rows)
        made = network(tokens[:, :-1], use_cache=False)
        loss = F.cross_entropy(made.logits.flatten(0, 1), tokens[:, 1:].flatten())
        if experts:  # so that no expert is left without tokens
            balance = load_balancing_loss_func(made.router_logits, experts, network.config.num_experts_per_tok)
            loss = loss + network.config.router_aux_loss_coef * balance
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if say and step % 50 == 0:
            print(f"step {step:5d}  loss {loss.item():.2f}  {time.monotonic() - begun:4.0f} s", flush=True)
    return ng.Model(network, tokenizer, name=f"tiny-{step}")


def main() -> None:
    """Train on the part of the starter corpus that Neuroglot's runs record, and leave what they hold out unread."""
    arguments = argparse.ArgumentParser(description=main.__doc__)
    arguments.add_argument("path", type=Path, help="where the checkpoints go")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--minutes", type=float, default=9, help="stop after so long")
    arguments.add_argument("--experts", type=int, default=0, help="train an OLMoE with so many a layer; 0 is a Llama")
    given = arguments.parse_args()
    logging.disable_progress_bar()
    corpus, _ = ng.load_corpus("starter").split(5)
    saved = [0, *(2**i * given.steps // 32 for i in range(5))]
    model = train(corpus, steps=given.steps, experts=given.experts, minutes=given.minutes, save=saved, path=given.path)
    size = sum(weight.numel() for weight in model.network.parameters())
    print(f"{size / 1e6:.1f} M parameters, saved in {given.path}")


if __name__ == "__main__":
    main()
