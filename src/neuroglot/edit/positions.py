"""Which tokens of a forward pass are the prompt, and which were generated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model

__all__ = ["When", "check_when", "prompt_length"]

When = Literal["both", "prompt", "generated"]


def check_when(when: str) -> None:
    """Refuse what says no tokens.

    Raises:
        NeuroglotError: as said.
    """
    if when not in ("both", "prompt", "generated"):
        raise NeuroglotError(f"when is both, prompt or generated, not {when!r}.")


@contextmanager
def prompt_length(model: Model, tokens: int) -> Iterator[None]:
    """Say that the first `tokens` positions of what is read are the prompt, and the others generated.

    With a key-value cache a position counts what the cache holds already, so that it is the same with and without.
    """
    before, model.prompt_tokens = model.prompt_tokens, tokens
    try:
        yield
    finally:
        model.prompt_tokens = before


class _Places:
    """Which positions the forward pass under way reads."""

    def __init__(self, model: Model):
        self.model = model
        self.start = self.length = 0

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep `start` and `length` up to date, pass by pass."""
        decoder = self.model.network.get_decoder()
        handle = decoder.register_forward_pre_hook(self._read, prepend=True, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _read(self, _: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        tokens = inputs[0] if inputs else named.get("input_ids")
        tokens = named["inputs_embeds"] if tokens is None else tokens
        cache = named.get("past_key_values")
        self.start = 0 if cache is None else int(cache.get_seq_length())
        self.length = tokens.shape[1]

    def part(self, when: When) -> slice:
        """The positions of this pass that are the prompt, or generated."""
        prompt = self.model.prompt_tokens
        if prompt is None:
            prompt = 0 if self.start else self.length
        cut = min(max(prompt - self.start, 0), self.length)
        return slice(0, cut) if when == "prompt" else slice(cut, self.length)


def _in_part(edit: Callable[[Tensor], Tensor], when: When, places: _Places) -> Callable[[Tensor], Tensor]:
    def change(values: Tensor) -> Tensor:
        part = places.part(when)
        if part.start == part.stop:
            return values
        changed = values.clone() if torch.is_grad_enabled() else values
        rows = changed.view(-1, places.length, values.shape[-1])  # OPT lays the batch and its tokens in one row
        rows[:, part] = edit(rows[:, part])
        return changed

    return change
