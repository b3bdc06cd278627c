"""Continuous batching: prompts wait in one queue, and as soon as rows are finished others take their slots.

Each row may be under interventions of its own. On a GPU a step is captured once as a CUDA graph, interventions and the
choice of the next token inside it, and replayed; the host looks at the rows every few steps only.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from neuroglot.edit.positions import prompt_length
from neuroglot.edit.rows import RowEdits
from neuroglot.generation.capture import Steps, kept_bytes
from neuroglot.generation.choice import Choice, say_lost
from neuroglot.generation.prompts import Row, end_tokens
from neuroglot.generation.state import Rows
from neuroglot.models.architecture.devices import device_of, devices_of
from neuroglot.models.fitting import halving, rows_within
from neuroglot.models.model import Model

__all__ = ["reason_against", "write_continuously"]

SLOTS = {"cpu": 32, "cuda": 128}
"""Rows at once by default, for each device of the model: a step reads all weights once for all of them."""
LOOK = 8
"""Steps on a GPU between two looks at which rows are finished."""
CACHE_SHARE = 0.7
"""Of the free memory, for keys and values."""

UNTRIED = "what it computes now is not a number"

logger = logging.getLogger(__name__)
_reasons: "WeakKeyDictionary[nn.Module, str]" = WeakKeyDictionary()


def write_continuously(
    model: Model,
    rows: Sequence[Row],
    tokens: int,
    choice: Choice,
    *,
    batch: int | None = None,
    written: Callable[[list[int]], None] | None = None,
    advance: Callable[[int], None] = lambda rows: None,
    captured: bool = True,
) -> list[list[int]]:
    """The new tokens of every row, without the end token; see `generate`.

    Args:
        model: one of which `reason_against` knows nothing.
        rows: prompts and what each is under.
        tokens: at most so many new ones each.
        choice: of the next token.
        batch: rows at once.
        written: called with the tokens so far, after each; one row only.
        advance: called with the number of rows that were finished.
        captured: capture steps where the device can.
    """
    if not rows:
        return []
    answers: dict[int, list[int]] = {}  # by the row's number
    lost = 0

    def write(slots: int) -> None:
        nonlocal lost
        left = [number for number in range(len(rows)) if number not in answers]
        queue = _Queue(model, [rows[number] for number in left], tokens, choice, slots, captured)
        try:
            queue.run(written, advance)
        finally:  # also where memory ends, which another job has taken since: the other rows are begun again
            answers.update((left[number], answer) for number, answer in queue.answers.items())
            lost += queue.lost

    # kernels are launched on the device that is the current one
    with torch.cuda.device(model.device) if model.device.type == "cuda" else nullcontext():
        halving(write, _slots(model, rows, tokens, batch), what="rows")
    say_lost(model.name, lost)
    return [answers[number] for number in range(len(rows))]


class _Queue:
    """Rows that wait, rows that are being written, and rows that are finished."""

    def __init__(self, model: Model, rows: Sequence[Row], tokens: int, choice: Choice, slots: int, captured: bool):
        self.model, self.rows, self.tokens = model, rows, tokens
        self.answers: dict[int, list[int]] = {}
        self.lost = 0  # answers that ended where there were no numbers
        # prompts of like length are read together; the longest first, so that the last to finish are short
        self.lengths = [len(row.ids) for row in rows]
        self.waiting = sorted(range(len(rows)), key=lambda number: -self.lengths[number])
        self.active: list[int] = []  # the row in each of the first slots
        self._counts: list[int] = []  # new tokens of each when last looked at
        recipes = {tuple(map(id, row.steps)): row.steps for row in rows}
        self.recipe = {key: number for number, key in enumerate(recipes)}
        longest, slots = _longest(rows, tokens), min(slots, len(rows))
        self.prompt, edits = RowEdits.of_parts(model, list(recipes.values()), slots)
        ends = end_tokens(model)
        make = lambda: Rows(model, choice, ends, slots, longest, tokens)  # noqa: E731
        settings = (choice, tuple(ends), slots, longest, tokens)
        self.steps = Steps.of(model, settings, make, edits, captured and model.device.type == "cuda")
        self.state, self.slots = self.steps.state, slots

    def run(self, written: Callable[[list[int]], None] | None, advance: Callable[[int], None]) -> None:
        """Write all rows; the answers of those that are finished are in `answers`, by their number."""
        look = 1 if written is not None or self.model.device.type == "cpu" else LOOK
        self.state.forget()
        while self.waiting or self.active:
            free = self.slots - len(self.active)
            if self.waiting and (not self.active or free >= min(len(self.waiting), max(1, self.slots // 4))):
                self._admit(free)
            else:
                self.steps.run(len(self.active), self._reach(look), min(look, self._left()))
            finished = self._harvest(written)
            if finished:
                advance(finished)
        self.steps.keep()

    def _left(self) -> int:
        """Steps until the first row can be full."""
        return max(1, self.tokens - max(self._counts, default=0))

    def _reach(self, steps: int) -> int:
        """Places that the next steps look at, of any row."""
        lengths = [len(self.rows[row].ids) + count for row, count in zip(self.active, self._counts, strict=True)]
        return min(self.state.length, -(-(max(lengths) + steps) // 16) * 16)

    def _admit(self, free: int) -> None:
        """Read waiting prompts into free slots, as many a pass as keep the device busy."""
        while free and self.waiting:
            some = rows_within(self.waiting, self.lengths, self.model.batch_tokens)[:free]
            del self.waiting[: len(some)]
            slots = self._device(list(range(len(self.active), len(self.active) + len(some))))
            recipes = self._device([self.recipe[tuple(map(id, self.rows[row].steps))] for row in some])
            self.prompt.assign(self._device(list(range(len(some)))), recipes)
            self.steps.edits.assign(slots, recipes)
            with self.steps.reading(self.prompt, len(some)):
                self.state.read(slots, [self.rows[row] for row in some])
            self.active += some
            free -= len(some)

    def _harvest(self, written: Callable[[list[int]], None] | None) -> int:
        """Take finished answers, and move rows so that those that go on are in the first slots."""
        count = len(self.active)
        done, self._counts = self._look(count)
        if written is not None and self.active:
            written(self.state.written[0, : self._counts[0]].tolist())
        finished = [slot for slot in range(count) if done[slot]]
        if finished:
            made = self.state.written[self._device(finished)].tolist()
            self.lost += int(self.state.lost[self._device(finished)].sum())
            for slot, answer in zip(finished, made, strict=True):
                self.answers[self.active[slot]] = answer[: self._counts[slot]]
            kept = count - len(finished)
            holes = [slot for slot in finished if slot < kept]
            movers = [slot for slot in range(kept, count) if not done[slot]]
            if holes:
                source, target = self._device(movers), self._device(holes)
                self.state.move(source, target)
                self.steps.edits.move(source, target)
            self.state.done[kept:] = True
            for hole, mover in zip(holes, movers, strict=True):
                self.active[hole], self._counts[hole] = self.active[mover], self._counts[mover]
            del self.active[kept:], self._counts[kept:]
        return len(finished)

    def _look(self, rows: int) -> tuple[list[int], list[int]]:
        """Which rows are done, and how many tokens each has: the only thing that the host waits for."""
        both = torch.stack([self.state.done[:rows].long(), self.state.count[:rows]]).tolist()
        return both[0], both[1]

    def _device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int64).to(self.model.device)


def _longest(rows: Sequence[Row], tokens: int) -> int:
    """Places of the longest prompt and its answer."""
    return -(-(max(len(row.ids) for row in rows) + tokens) // 16) * 16


def _slots(model: Model, rows: Sequence[Row], tokens: int, batch: int | None) -> int:
    """Rows at once: as many as were asked for, or as the devices like, and have memory for at the moment."""
    liked = SLOTS.get(model.device.type, 32) * len(devices_of(model.network))
    return min(len(rows), batch or liked, _room(model, _longest(rows, tokens)))


def _room(model: Model, length: int) -> int:
    """Rows of this length whose keys and values there is memory for, on each device for those of its layers."""
    config = model.text_config
    layers = list(getattr(config, "per_layer_config", ())) or [config] * config.num_hidden_layers
    row: Counter[torch.device] = Counter()
    for each, ffn in zip(layers, model.ffns, strict=False):
        row[device_of(ffn.layer)] += 2 * length * _cached(each) * model.network.dtype.itemsize
    return min(max(1, int(CACHE_SHARE * _free(model, device) / taken)) for device, taken in row.items())


def _free(model: Model, device: torch.device) -> int:
    """Bytes of a device that keys and values can have."""
    if device.type != "cuda":
        return 4 << 30
    # what torch holds but does not use is free too, and so is what an earlier call left
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held + kept_bytes(model, device)


def _cached(config: Any) -> int:
    """How many numbers a token's keys are, in a layer of this configuration; its values are as many."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads))


@torch.inference_mode()
def reason_against(model: Model) -> str:
    """Why this engine cannot write with a model, or nothing.

    It is found by trying: two texts of different length, read as this engine reads them and as one pass does, must give
    the same logits.
    """
    network = model.network
    if network not in _reasons:
        reason = halving(lambda _: _tried(model), 1, what="trial")  # a full device is no reason against a model
        if reason == UNTRIED:
            return reason
        if reason:
            logger.debug("%s is run by transformers' generate: %s", model.name, reason)
        _reasons[network] = reason
    return _reasons[network]


def _tried(model: Model) -> str:
    network = model.network
    if len({device.type for device in devices_of(network)}) != 1:
        return "not all of its weights are on GPUs"
    if getattr(model.text_config, "is_encoder_decoder", False):
        return "it has an encoder"
    texts = [
        [(7 * place + 3 * number) % model.vocabulary for place in range(length)] for number, length in ((0, 9), (1, 4))
    ]
    read = [torch.tensor([text]).to(model.device) for text in texts]
    try:
        state = Rows(model, Choice(), [], 2, 16, 4)
        slots = torch.arange(2, device=model.device)
        first = state.read(slots, [Row(tuple(text[:-1])) for text in texts])
        state.last[:] = torch.tensor([text[-1] for text in texts]).to(model.device)
        second = state.step(2, 16)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture of somebody else's raises
        return f"it cannot be read with a cache of slots ({type(error).__name__}: {str(error)[:80]})"
    for number, text in enumerate(read):
        with prompt_length(model, text.shape[1] - 1):
            logits = network(input_ids=text, use_cache=False).logits[0, -2:].float().to(model.device)
        if not bool(torch.isfinite(logits).all()):
            return UNTRIED
        exact = network.dtype == torch.float32
        allowed = (1e-3 if exact else 0.1) * float(logits.abs().max() + 1e-6)
        for mine, its in ((first[number], logits[0]), (second[number], logits[1])):
            if not float((mine - its).abs().max()) <= allowed:
                return "a cache of slots gives other logits"
    return ""
