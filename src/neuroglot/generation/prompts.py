"""Prompts as tokens: how they begin, where answers end, and how long both may be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from neuroglot.edit.interventions import Intervention
from neuroglot.errors import NeuroglotError, first_line
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader, encode

__all__ = ["Row", "check_lengths", "check_prompts", "end_tokens", "prompt_tokens", "said_around", "stretched"]

PLACE = "\ue000\ue001"
"""Stands for the question in a chat template: no text has these characters."""


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


def prompt_tokens(model: Model | TextReader, prompts: Sequence[str], chat: bool) -> list[tuple[int, ...]]:
    """The tokens of prompts, after what the tokenizer puts before a text, or inside its chat template.

    A prompt that spells a special token is text, in a template too.

    Raises:
        NeuroglotError: a prompt is empty, there is no chat template or it cannot be filled in, or a token is one that
            the model has not learnt.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise NeuroglotError("A prompt is empty; give it some text.")
    if chat and not model.tokenizer.chat_template:
        raise NeuroglotError(f"{model.name} has no chat template, as base models have none; ask it without.")
    if not prompts:
        return []
    if chat:
        rows = [tuple(_in_template(model, prompt)) for prompt in prompts]
    else:
        rows = [(*model.begin, *ids) for ids in encode(model.tokenizer, prompts)]
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


def said_around(model: Model, chat: bool) -> dict[str, Any]:
    """What answers depend on beside prompts and weights, for the digest that they are kept by: the chat template."""
    return {"template": model.tokenizer.chat_template} if chat else {}


def _in_template(model: Model | TextReader, prompt: str) -> list[int]:
    """The tokens of a chat with one question; the template writes BOS itself, as text."""
    parts, parted = _around(model)

    def read(text: str) -> list[int]:
        return list(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    if not any(token in prompt for token in model.tokenizer.get_added_vocab()):
        try:
            return read(_filled(model, prompt, parted))
        except Exception as error:
            raise _no_question(model, error) from error
    (question,) = encode(model.tokenizer, [prompt.strip()])
    ids = read(parts[0])
    for part in parts[1:]:
        ids += [*question, *read(part)]
    return ids


def _filled(model: Model | TextReader, question: str, parted: bool) -> str:
    """The chat template with a question, as text or in parts."""
    content: Any = [{"type": "text", "text": question}] if parted else question
    message = [{"role": "user", "content": content}]
    return str(model.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def _around(model: Model | TextReader) -> tuple[list[str], bool]:
    """What the chat template says around a question, and whether it takes it in parts only.

    Templates of models that see images, too, may say nothing of a message that is not in parts.

    Raises:
        NeuroglotError: it takes or says neither.
    """
    failed: Exception | None = None
    for parted in (False, True):
        try:
            parts = _filled(model, PLACE, parted).split(PLACE)
        except Exception as error:  # a template is a program of others, and some refuse what they are given
            failed = failed or error
            continue
        if len(parts) > 1:
            return parts, parted
    raise _no_question(model, failed)


def _no_question(model: Model | TextReader, error: Exception | None) -> NeuroglotError:
    reason = "it leaves the question out" if error is None else first_line(error)[:120]
    return NeuroglotError(
        f"The chat template of {model.name} does not take a question alone ({reason}); set another "
        "tokenizer.chat_template, or ask without it."
    )


def end_tokens(model: Model) -> list[int]:
    """The tokens that end an answer: those of the checkpoint's generation_config, else of its config or tokenizer.

    Raises:
        NeuroglotError: what is said there is no token.
    """
    sources = (
        getattr(getattr(model.network, "generation_config", None), "eos_token_id", None),
        getattr(model.text_config, "eos_token_id", None),
        model.tokenizer.eos_token_id,
    )
    said: Any = next((ends for ends in sources if ends is not None and ends != []), ())
    ends = list(said) if isinstance(said, list | tuple) else [said]
    if not all(isinstance(end, int) for end in ends):
        raise NeuroglotError(f"The eos_token_id of {model.name} is {said!r}, which is no token's number; mend it.")
    return ends


def check_prompts(reader: TextReader, prompts: Iterable[str], tokens: int, chat: bool = False) -> None:
    """Refuse what `generate` would refuse of prompts, before weights are opened and anything is measured.

    Args:
        reader: of the model that is to continue them.
        prompts: texts.
        tokens: at most so many new ones each.
        chat: whether they go into the chat template.

    Raises:
        NeuroglotError: see `prompt_tokens` and `check_lengths`.
    """
    check_lengths(reader, prompt_tokens(reader, list(prompts), chat), tokens)


def check_lengths(model: Model | TextReader, rows: Sequence[Sequence[int]], tokens: int) -> None:
    """Refuse prompts that with their answers are longer than the model's positions, rotary ones included.

    Beyond the length it was trained for, a model with a position table fails and one with rotary positions writes
    nonsense. The last token of an answer is not read.

    Raises:
        NeuroglotError: as said.
    """
    context = model.context
    longest = max(map(len, rows), default=0)
    if context and longest + tokens - 1 > context:
        raise NeuroglotError(
            f"A prompt of {longest:,} tokens and an answer of up to {tokens:,} are more than the {context:,} positions "
            f"of {model.name}; give a shorter prompt or ask for at most {max(context - longest + 1, 0):,} new tokens."
        )


def stretched(model: Model, rows: Sequence[Sequence[int]], tokens: int) -> bool:
    """Whether rotary positions would depend on the longest row of a batch, so that each must be written alone.

    Some models (LongRoPE, dynamic NTK) change all angles once a text is longer than those of their first training.
    """
    config = model.text_config
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    layers = [given, *(value for value in given.values() if isinstance(value, dict))]
    longest = max(map(len, rows), default=0) + tokens
    for rope in layers:
        first = rope.get("original_max_position_embeddings")
        first = first or getattr(config, "original_max_position_embeddings", None) or model.context
        if rope.get("rope_type", rope.get("type")) in ("longrope", "dynamic") and first and longest > first:
            return True
    return False
