"""What a model goes on to write: greedily or sampled, for many prompts at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroglot.edit.positions import prompt_length
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model

__all__ = ["generate"]

BATCH = 16


@torch.inference_mode()
def generate(
    model: Model,
    prompts: Sequence[str],
    *,
    tokens: int = 64,
    repetition_penalty: float = 1.0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = BATCH,
    cache: bool = True,
    chat: bool = False,
    written: Callable[[str], None] | None = None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> list[str]:
    """Continue each prompt, under the interventions in force.

    Args:
        model: intact or changed.
        prompts: texts; BOS is put before each where the tokenizer puts one.
        tokens: at most so many new ones each; an end-of-sequence token ends it sooner.
        repetition_penalty: logits of tokens that are in the prompt or the answer are divided by it (multiplied where
            negative); 1 does nothing, the LAPE paper takes 1.1 (§3.1).
        temperature: 0 takes the likeliest token (greedy); above it, samples.
        top_p: when sampling, only from the likeliest tokens that make up this probability.
        seed: of the sampling. The same seed, prompts and batch give the same texts.
        batch: prompts a forward pass. Padded on the left, where it is masked: it changes nothing but rounding.
        cache: keep keys and values; without, every token is read again for each new one, with the same result.
        chat: put each prompt into the tokenizer's chat template.
        written: called with the whole continuation so far after each token; one prompt only.
        advance: called with the number of prompts finished, and a word.

    Returns:
        The continuations, without their prompts.

    Raises:
        NeuroglotError: a prompt is empty, a setting is out of range, or there is no chat template.
    """
    if repetition_penalty <= 0 or temperature < 0 or not 0 < top_p <= 1 or tokens < 1 or batch < 1:
        raise NeuroglotError(
            "Generation takes a repetition penalty above 0, a temperature of 0 or more, a top_p above 0 and at most 1, "
            "and at least one token and one prompt a batch."
        )
    if written is not None and len(prompts) != 1:
        raise NeuroglotError("Only one prompt at a time can be streamed; give one.")
    from transformers import LogitsProcessorList  # here, so that what reads answers does without

    rows = _encode(model, prompts, chat)
    padding = next((t for t in (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id, 0) if t is not None), 0)
    texts: list[str] = []
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            length = max(map(len, some))
            # padded on the left, so that every continuation begins at the same place
            ids = torch.tensor([[padding] * (length - len(row)) + row for row in some]).to(model.device)
            mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in some]).to(model.device)
            with prompt_length(model, length):
                output = model.network.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=tokens,
                    do_sample=temperature > 0,
                    num_beams=1,
                    temperature=temperature or None,
                    top_p=top_p if temperature else None,
                    top_k=0 if temperature else None,
                    repetition_penalty=1.0,
                    logits_processor=LogitsProcessorList(
                        [_Repetition(repetition_penalty, mask)] if repetition_penalty != 1 else []
                    ),
                    use_cache=cache,
                    pad_token_id=padding,
                    streamer=None if written is None else _Streamer(model.tokenizer, written),
                )
            texts += map(str, model.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True))
            advance(len(some), "")
    return texts


def _encode(model: Model, prompts: Sequence[str], chat: bool) -> list[list[int]]:
    if not all(prompt.strip() for prompt in prompts):
        raise NeuroglotError("A prompt is empty; give it some text.")
    if chat:
        if not model.tokenizer.chat_template:
            raise NeuroglotError(f"{model.name} has no chat template, as base models have none; ask it without.")
        texts = [
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]  # the template writes BOS itself, as text
        return (
            [list(ids) for ids in model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]
            if texts
            else []
        )
    return [[*model.begin, *ids] for ids in model.encode(prompts)]


class _Repetition:
    """A logits processor: transformers' repetition penalty, but padding is not a token that was written."""

    def __init__(self, penalty: float, mask: Int[Tensor, "batch prompt"]):
        self.penalty, self.mask = penalty, mask.bool()

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        ids = input_ids.clone()
        prompt = ids[:, : self.mask.shape[1]]
        prompt[:] = torch.where(self.mask, prompt, prompt[:, -1:])  # the last token of the prompt instead
        score = scores.gather(1, ids)
        score = torch.where(score < 0, score * self.penalty, score / self.penalty)
        return scores.scatter(1, ids, score)


class _Streamer:
    """A streamer of transformers: calls back with the text so far, token by token."""

    def __init__(self, tokenizer: Any, written: Callable[[str], None]):
        self.tokenizer, self.written = tokenizer, written
        self.ids: list[int] | None = None  # the prompt comes first

    def put(self, value: Tensor) -> None:
        if self.ids is None:
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        self.written(self.tokenizer.decode(self.ids, skip_special_tokens=True).rstrip("\ufffd"))

    def end(self) -> None:
        pass
