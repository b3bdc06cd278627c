"""Prompts as tokens: how they begin, where answers end, and how long both may be."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuroglot.edit.interventions import Intervention
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model

__all__ = ["Row", "check_lengths", "end_tokens", "padding_token", "prompt_tokens"]


@dataclass(frozen=True)
class Row:
    """One prompt to be continued.

    Attributes:
        ids: its tokens.
        steps: the interventions that only this row is under.
        stream: which sequence of random numbers it draws when sampling.
    """

    ids: tuple[int, ...]
    steps: tuple[Intervention, ...] = ()
    stream: int = 0


def prompt_tokens(model: Model, prompts: Sequence[str], chat: bool) -> list[tuple[int, ...]]:
    """The tokens of prompts, with BOS where the tokenizer defines one, or inside its chat template.

    Raises:
        NeuroglotError: a prompt is empty, there is no chat template, or a token is one that the model has not learnt.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise NeuroglotError("A prompt is empty; give it some text.")
    if chat and not model.tokenizer.chat_template:
        raise NeuroglotError(f"{model.name} has no chat template, as base models have none; ask it without.")
    if not prompts:
        return []
    bos = [] if model.bos is None or chat else [model.bos]  # the template writes BOS itself, as text
    texts = list(prompts)
    if chat:
        texts = [
            model.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
    encoded = model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    rows = [tuple(bos + list(ids)) for ids in encoded]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise NeuroglotError(f"The tokenizer of {model.name} makes no token of the prompt {prompt[:40]!r}.")
        if max(row) >= model.vocabulary:
            raise NeuroglotError(
                f"The prompt {prompt[:40]!r} has the token {model.tokenizer.convert_ids_to_tokens(max(row))!r} "
                f"({max(row)}), but {model.name} has embeddings of {model.vocabulary:,} tokens only; resize them, or "
                "write it otherwise."
            )
    return rows


def padding_token(model: Model) -> int:
    """A token to fill short rows with, where it is masked: one that has an embedding."""
    named = (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id)
    return next((token for token in named if token is not None and 0 <= token < model.vocabulary), 0)


def end_tokens(model: Model) -> list[int]:
    """The tokens that end an answer: those of the checkpoint's generation_config, else of its config or tokenizer."""
    sources = (
        getattr(getattr(model.network, "generation_config", None), "eos_token_id", None),
        getattr(model.text_config, "eos_token_id", None),
        model.tokenizer.eos_token_id,
    )
    ends = next((ends for ends in sources if ends is not None), [])
    return [int(end) for end in (ends if isinstance(ends, Sequence) else [ends])]


def check_lengths(model: Model, rows: Sequence[Sequence[int]], tokens: int) -> None:
    """Refuse prompts that with their answers are longer than the model's positions, rotary ones included.

    Beyond the length it was trained for, a model with a position table fails and one with rotary positions writes
    nonsense. The last token of an answer is not read.

    Raises:
        NeuroglotError: as said.
    """
    context = getattr(model.text_config, "max_position_embeddings", None)
    longest = max(map(len, rows), default=0)
    if context and longest + tokens - 1 > context:
        raise NeuroglotError(
            f"A prompt of {longest:,} tokens and an answer of up to {tokens:,} are more than the {context:,} positions "
            f"of {model.name}; give a shorter prompt or ask for at most {max(context - longest + 1, 0):,} new tokens."
        )
