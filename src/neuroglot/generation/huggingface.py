"""The reference engine: transformers' own `generate`, batch by batch, which every other engine is tested against."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroglot.edit.interventions import intervene
from neuroglot.edit.positions import prompt_length
from neuroglot.errors import NeuroglotError
from neuroglot.generation.choice import Choice, no_number, say_lost
from neuroglot.generation.prompts import Row, end_tokens
from neuroglot.models.fitting import halving
from neuroglot.models.model import Model
from neuroglot.models.tokenization import padding_token

__all__ = ["checkpoint_defaults", "write_plainly"]

BATCH = 16


def write_plainly(
    model: Model,
    rows: Sequence[Row],
    tokens: int,
    choice: Choice,
    *,
    batch: int | None = None,
    cache: bool = True,
    written: Callable[[list[int]], None] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[list[int]]:
    """The new tokens of every row, without the end token; see `generate`. Rows of one recipe share a batch."""
    answers: dict[int, list[int]] = {}
    lost = 0
    recipes: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        recipes.setdefault(tuple(map(id, row.steps)), []).append(number)

    def write(at_once: int) -> None:
        nonlocal lost
        for numbers in recipes.values():
            left = [number for number in numbers if number not in answers]
            with intervene(model, *rows[numbers[0]].steps):
                for start in range(0, len(left), at_once):
                    some = left[start : start + at_once]
                    made, ended = _batch(model, [rows[number] for number in some], tokens, choice, cache, written)
                    answers.update(zip(some, made, strict=True))
                    lost += ended
                    advance(len(some))

    halving(write, min(batch or BATCH, max(1, len(rows))), what="rows")
    say_lost(model.name, lost)
    return [answers[number] for number in range(len(rows))]


def _batch(
    model: Model,
    rows: Sequence[Row],
    tokens: int,
    choice: Choice,
    cache: bool,
    written: Callable[[list[int]], None] | None,
) -> tuple[list[list[int]], int]:
    """The new tokens of each row, and how many rows ended where there were no numbers."""
    from transformers import LogitsProcessorList

    length, padding, ends = max(len(row.ids) for row in rows), padding_token(model), end_tokens(model)
    # padded on the left, so that every continuation begins at the same place
    ids = torch.tensor([[padding] * (length - len(row.ids)) + list(row.ids) for row in rows]).to(model.device)
    mask = torch.tensor([[0] * (length - len(row.ids)) + [1] * len(row.ids) for row in rows]).to(model.device)
    numbers = _Numbers(tokens, len(rows))
    processors: list[Any] = [numbers]
    if choice.repetition_penalty != 1:
        processors.append(_Repetition(choice.repetition_penalty, mask))
    if choice.temperature:
        processors.append(_Drawn(choice, torch.tensor([row.stream for row in rows]).to(model.device), mask))
    with prompt_length(model, length), checkpoint_defaults(model):
        try:
            output = model.network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList(processors),
                use_cache=cache,
                pad_token_id=padding,
                streamer=None if written is None else _Streamer(written),
            )
        except (AttributeError, TypeError) as error:  # an architecture of one's own, without what generate asks for
            raise NeuroglotError(
                f"{model.name} cannot continue a prompt, since transformers’ generate fails on it ({error}); give its "
                "class and its configuration what GenerationMixin needs. It can be recorded and measured."
            ) from error
    answers = [_until(answer, ends) for answer in output[:, length:].tolist()]
    lost = sum(first < tokens and len(answer) >= first for first, answer in zip(numbers.until, answers, strict=True))
    return [answer[:first] for first, answer in zip(numbers.until, answers, strict=True)], lost


@contextmanager
def checkpoint_defaults(model: Model) -> Iterator[None]:
    """Nothing of the checkpoint's generation_config but where answers end: it would fill in what is not said."""
    from transformers import GenerationConfig

    before = model.network.generation_config
    model.network.generation_config = GenerationConfig(eos_token_id=end_tokens(model) or None)
    try:
        yield
    finally:
        model.network.generation_config = before


def _until(answer: list[int], ends: Sequence[int]) -> list[int]:
    """An answer up to where it ends; what fills the row after it may be any token."""
    return answer[: next((place for place, token in enumerate(answer) if token in ends), len(answer))]


class _Numbers:
    """A logits processor that changes nothing: up to which token the logits of each row were numbers."""

    def __init__(self, tokens: int, rows: int):
        self.until, self.step = [tokens] * rows, 0

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        for row in no_number(scores).nonzero().flatten().tolist():
            self.until[row] = min(self.until[row], self.step)
        self.step += 1
        return scores


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


class _Drawn:
    """A logits processor: all but the token that `Choice` draws is out of the question."""

    def __init__(self, choice: Choice, stream: Int[Tensor, " batch"], mask: Int[Tensor, "batch prompt"]):
        self.choice, self.stream, self.padding = choice, stream, (mask == 0).sum(1)

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        drawn = self.choice.drawn(scores, self.stream, input_ids.shape[1] - self.padding)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn[:, None], 0.0)


class _Streamer:
    """A streamer of transformers: calls back with the tokens so far."""

    def __init__(self, written: Callable[[list[int]], None]):
        self.written = written
        self.ids: list[int] | None = None  # the prompt comes first

    def put(self, value: Tensor) -> None:
        if self.ids is None:
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        self.written(self.ids)

    def end(self) -> None:
        pass
