"""What an engine knows of every row while it writes, on the device, so that a step needs no word from the host."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroglot.edit.positions import prompt_length
from neuroglot.generation.choice import Choice, no_number
from neuroglot.generation.prompts import Row
from neuroglot.generation.slots import SlotCache, decode_masks
from neuroglot.models.model import Model

__all__ = ["Rows"]

EVERY_TOKEN = 1 << 62  # more than any text has


class Rows:
    """The rows of a batch, a slot each: their caches, their last tokens, and what they have written.

    Args:
        model: writes.
        choice: how the next token is chosen.
        ends: the tokens that end an answer.
        slots: how many rows at most.
        length: tokens of a prompt and its answer at most.
        tokens: of an answer at most.
    """

    def __init__(self, model: Model, choice: Choice, ends: Sequence[int], slots: int, length: int, tokens: int):
        device, self.model, self.choice = model.device, model, choice
        self.slots, self.length, self.tokens = slots, length, tokens
        self.cache = SlotCache(model.text_config.num_hidden_layers, slots, length)
        self.ends = torch.tensor(sorted(ends), dtype=torch.int64, device=device)
        self.last = torch.zeros(slots, dtype=torch.int64, device=device)  # the token that a step reads
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)  # its place in the row
        self.count = torch.zeros(slots, dtype=torch.int64, device=device)  # new tokens so far
        self.stream = torch.zeros(slots, dtype=torch.int64, device=device)
        self.written = torch.zeros((slots, tokens), dtype=torch.int64, device=device)
        self.done = torch.ones(slots, dtype=torch.bool, device=device)
        self.lost = torch.zeros(slots, dtype=torch.bool, device=device)  # whose logits were no numbers
        self.start = torch.arange(slots, dtype=torch.int64, device=device) * length
        penalised = choice.repetition_penalty != 1
        self.seen = torch.zeros((slots, model.vocabulary if penalised else 0), dtype=torch.bool, device=device)
        self.note: Callable[..., None] | None = None  # what does `_write` for the first rows in one kernel

    def read(self, slots: Int[Tensor, " rows"], rows: Sequence[Row]) -> Float[Tensor, "rows vocabulary"]:
        """Read prompts into slots in one pass, write their first new tokens, and give the logits those came from.

        Short prompts are filled up on the right, which the tokens before cannot see and which is written over later.
        """
        device = self.model.device
        lengths = torch.tensor([len(row.ids) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row.ids) for row in rows], batch_first=True).to(device)
        streams = torch.tensor([row.stream for row in rows])
        last, streams = (lengths - 1).to(device), streams.to(device)
        head = self.model.network.get_output_embeddings()
        narrowed = head.register_forward_pre_hook(lambda _, inputs: (_at(inputs[0], last), *inputs[1:]))
        positions = torch.arange(ids.shape[1], device=device).expand(ids.shape)
        try:
            with self.cache.filling(slots), prompt_length(self.model, EVERY_TOKEN):
                output = self.model.network(
                    input_ids=ids, position_ids=positions, past_key_values=self.cache, use_cache=True
                )
        finally:
            narrowed.remove()
        logits: Tensor = output.logits[:, -1].to(device).float()
        self.position[slots], self.count[slots], self.stream[slots] = last, 0, streams
        if self.seen.shape[1]:
            inside = torch.arange(ids.shape[1], device=device) <= last[:, None]
            ids = torch.where(inside, ids, ids[:, :1])
            seen = torch.zeros((len(rows), self.seen.shape[1]), dtype=torch.bool, device=device)
            self.seen[slots] = seen.scatter(1, ids, True)
        seen = self.seen[slots]
        token = self.choice.drawn(self.choice.penalised(logits, seen), streams, last + 1)
        self.lost[slots] = False
        self._write(token, slots, torch.zeros(len(rows), dtype=torch.bool, device=device), no_number(logits))
        return logits

    def step(self, rows: int, reach: int) -> Float[Tensor, "rows vocabulary"]:
        """Read the last token of the first rows and write the next; the first `reach` places of each are looked at.

        Rows that are done stay as they are. Nothing is asked of the device and nothing is allocated that outlives it,
        so the step can be captured.
        """
        last, position = self.last[:rows], self.position[:rows]
        self.cache.step(self.start[:rows] + position, reach)
        masks = decode_masks(self.model.text_config, position, reach, self.model.network.dtype)
        with prompt_length(self.model, 0):
            output = self.model.network(
                input_ids=last[:, None], position_ids=position[:, None], attention_mask=masks,
                past_key_values=self.cache, use_cache=True,
            )  # fmt: skip
        logits: Tensor = output.logits[:, -1].to(last.device).float()
        token = self.choice.drawn(self.choice.penalised(logits, self.seen[:rows]), self.stream[:rows], position + 1)
        if self.note is not None and not self.seen.shape[1]:
            self.note(token, self.ends, self.last, self.position, self.count, self.done, self.written)
        else:
            slots = torch.arange(rows, device=token.device)
            self._write(token, slots, self.done[:rows].clone(), no_number(logits))
        return logits

    def _write(self, token: Int[Tensor, " rows"], slots: Int[Tensor, " rows"], idle: Tensor, lost: Tensor) -> None:
        """Note the next token of these slots, except of those that are idle; what is lost ends there."""
        count, position = self.count[slots], self.position[slots]
        self.lost[slots] |= lost & ~idle
        ended = (token[:, None] == self.ends).any(1) | lost
        place = count.clamp_max(self.tokens - 1)
        self.written[slots, place] = torch.where(idle | ended, self.written[slots, place], token)
        more = (~idle & ~ended).long()
        self.count[slots] = count + more
        self.done[slots] = idle | ended | (count + more >= self.tokens)
        self.last[slots] = torch.where(idle, self.last[slots], token)
        self.position[slots] = position + (~self.done[slots]).long()
        if self.seen.shape[1]:
            self.seen[slots] = self.seen[slots].scatter(1, self.last[slots][:, None], True)

    def move(self, source: Int[Tensor, " rows"], target: Int[Tensor, " rows"]) -> None:
        """Copy rows to other slots."""
        self.cache.move(source, target)
        for kept in (self.last, self.position, self.count, self.stream, self.written, self.done, self.lost, self.seen):
            kept[target] = kept[source]

    def forget(self) -> None:
        """Every slot is free."""
        self.done.fill_(True)
        self.position.zero_()


def _at(states: Tensor, place: Tensor) -> Tensor:
    """The states of one token of each row."""
    return states[torch.arange(len(place), device=states.device), place.to(states.device)][:, None]
