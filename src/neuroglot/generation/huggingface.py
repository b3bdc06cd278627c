"""The reference engine: transformers' own `generate`, batch by batch, which every other engine is tested against."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroglot.edit.interventions import intervene
from neuroglot.edit.positions import prompt_length
from neuroglot.errors import NeuroglotError, first_line
from neuroglot.generation.choice import Choice, no_number, say_lost
from neuroglot.generation.prompts import Row, end_tokens
from neuroglot.models.fitting import halving
from neuroglot.models.model import Model
from neuroglot.models.tokenization import padding_token

__all__ = ["checkpoint_defaults", "pads_alike", "write_plainly"]

BATCH = 16

_alike: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


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
    """The new tokens of every row, without the end token; see `generate`.

    Rows of one recipe share a batch, those of one length where the model would not read them alike when padded.
    """
    answers: dict[int, list[int]] = {}
    lost = 0
    batches: dict[tuple[int, ...], list[int]] = {}
    mixed = len({len(row.ids) for row in rows}) == 1 or batch == 1 or pads_alike(model)
    for number, row in enumerate(rows):
        batches.setdefault((0 if mixed else len(row.ids), *map(id, row.steps)), []).append(number)

    def write(at_once: int) -> None:
        nonlocal lost
        for numbers in batches.values():
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
    ends = end_tokens(model)
    numbers = _Numbers(tokens, len(rows))
    processors: list[Any] = [numbers]
    padding = max(len(row.ids) for row in rows) - torch.tensor([len(row.ids) for row in rows]).to(model.device)
    if choice.repetition_penalty != 1:
        processors.append(_Repetition(choice.repetition_penalty, padding))
    if choice.temperature:
        processors.append(_Drawn(choice, torch.tensor([row.stream for row in rows]).to(model.device), padding))
    output = _generated(
        model,
        [row.ids for row in rows],
        tokens,
        processors,
        use_cache=cache,
        streamer=None if written is None else _Streamer(written),
    )
    answers = [_until(answer, ends) for answer in output[:, max(len(row.ids) for row in rows) :].tolist()]
    lost = sum(first < tokens and len(answer) >= first for first, answer in zip(numbers.until, answers, strict=True))
    return [answer[:first] for first, answer in zip(numbers.until, answers, strict=True)], lost


def _generated(model: Model, rows: Sequence[Sequence[int]], tokens: int, processors: Sequence[Any], **how: Any) -> Any:
    """What transformers' `generate` makes of rows, padded on the left, so that all continuations begin at one place.

    Raises:
        NeuroglotError: the architecture has not what it asks for.
    """
    from transformers import LogitsProcessorList

    length, padding = max(map(len, rows)), padding_token(model)
    ids = torch.tensor([[padding] * (length - len(row)) + list(row) for row in rows]).to(model.device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]).to(model.device)
    with prompt_length(model, length), checkpoint_defaults(model):
        try:
            return model.network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList(processors),
                pad_token_id=padding,
                **how,
            )
        except NeuroglotError:
            raise
        except (AttributeError, TypeError, ValueError) as error:  # an architecture without what generate asks for
            raise NeuroglotError(
                f"{model.name} cannot continue a prompt, since transformers’ generate fails on it "
                f"({first_line(error)}); give its class and its configuration what GenerationMixin needs. It can be "
                "recorded and measured."
            ) from error


@torch.inference_mode()
def pads_alike(model: Model) -> bool:
    """Whether the model continues a prompt that is padded on the left as it continues it alone, which is tried.

    Some decoders number the places of a text from the first one, padding included (BART's), or attend to it.
    """
    if model.network not in _alike:
        text = [7 * (place + 1) % model.vocabulary for place in range(7)]
        try:
            alone, padded = (_next_logits(model, rows) for rows in ([text[3:]], [text, text[3:]]))
        except NeuroglotError:  # it cannot write, which is said where it is asked to
            return True
        apart, largest = float((padded - alone).abs().max()), float(alone.abs().max())
        if not math.isfinite(apart):  # under an intervention that makes no numbers
            return True
        _alike[model.network] = apart <= (1e-3 if model.network.dtype == torch.float32 else 0.1) * (largest + 1e-6)
    return _alike[model.network]


def _next_logits(model: Model, rows: Sequence[Sequence[int]]) -> Float[Tensor, "steps vocabulary"]:
    """Of the last row at the two places after it, a given token standing at the first."""
    ends = set(end_tokens(model))
    token = next(token for token in range(model.vocabulary) if token not in ends)
    forced = lambda ids, scores: torch.full_like(scores, -torch.inf).index_fill(  # noqa: E731
        1, torch.tensor([token], device=scores.device), 0.0
    )
    made = _generated(model, rows, 2, [forced], output_logits=True, return_dict_in_generate=True)
    return torch.stack([logits[-1] for logits in made.logits]).float()


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

    def __init__(self, penalty: float, padding: Int[Tensor, " batch"]):
        self.penalty, self.padding = penalty, padding

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        read = torch.arange(input_ids.shape[1], device=input_ids.device) >= self.padding[:, None]
        ids = torch.where(read, input_ids, input_ids[:, -1:])  # its last token instead
        score = scores.gather(1, ids)
        score = torch.where(score < 0, score * self.penalty, score / self.penalty)
        return scores.scatter(1, ids, score)


class _Drawn:
    """A logits processor: all but the token that `Choice` draws is out of the question."""

    def __init__(self, choice: Choice, stream: Int[Tensor, " batch"], padding: Int[Tensor, " batch"]):
        self.choice, self.stream, self.padding = choice, stream, padding

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
