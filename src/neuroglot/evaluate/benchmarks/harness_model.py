"""A model as the lm-evaluation-harness takes it, which reads text and writes answers by the rules of every other part.

Left to itself the harness takes a text that spells a special token for one, pads with a token that may have no
embedding, lets the checkpoint's generation_config decide what a task does not, and cuts long requests silently.
"""

import copy
import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.edit.positions import prompt_length
from neuroglot.errors import NeuroglotWarning, require
from neuroglot.generation.huggingface import checkpoint_defaults, pads_alike
from neuroglot.models.architecture.body import has_encoder
from neuroglot.models.model import Model
from neuroglot.models.tokenization import padding_token

__all__ = ["cuts_are_said", "harness", "wrap"]


def harness(module: str) -> Any:
    """A module of lm-eval, which is imported only when asked for.

    Raises:
        NeuroglotError: it is not installed.
    """
    return require(module, "tasks", needed_by="Scoring tasks")


def wrap(model: Model, batch_size: int = 8) -> Any:
    """The model as the harness takes it: an `HFLM` around the loaded network itself."""
    tokenizer = model.tokenizer
    if tokenizer.pad_token_id != padding_token(model):
        tokenizer = copy.deepcopy(tokenizer)  # the harness asks it what to pad with
        tokenizer.pad_token_id = padding_token(model)
    if not has_encoder(model.network) and not pads_alike(model):
        batch_size = 1
    made = _kind()(pretrained=model.network, tokenizer=tokenizer, batch_size=batch_size, max_length=model.context)
    made.of = model
    return made


@functools.cache
def _kind() -> Any:
    """The class, made when it is first asked for, since the harness is imported by then only."""

    class HarnessModel(harness("lm_eval.models.huggingface").HFLM):  # type: ignore[misc]
        of: Model
        cut = 0
        """Requests so far that were longer than the model reads, whose beginnings the harness left out."""

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
        ) -> list[int]:
            if self.backend != "causal":  # what an encoder reads has an end of its own
                return list(super().tok_encode(string, add_special_tokens, left_truncate_len))
            (ids,) = self.of.encode([string])
            ids = ids if add_special_tokens is False else [*self.of.begin, *ids]
            return ids[-left_truncate_len:] if left_truncate_len else ids

        def tok_batch_encode(
            self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
        ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
            rows = [self.tok_encode(text) for text in strings]
            self.cut += sum(left_truncate_len is not None and len(row) > left_truncate_len for row in rows)
            rows = [row[-left_truncate_len:] if left_truncate_len else row for row in rows]
            gaps = [max(map(len, rows)) - len(row) for row in rows]
            before = [gap if padding_side == "left" else 0 for gap in gaps]

            def filled(of: Sequence[Sequence[int]], fill: int) -> Int[Tensor, "batch length"]:
                sides = zip(of, before, gaps, strict=True)
                return torch.tensor([[*[fill] * one, *row, *[fill] * (gap - one)] for row, one, gap in sides])

            return filled(rows, padding_token(self.of)), filled([[1] * len(row) for row in rows], 0)

        def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **options: Any) -> Any:
            self.cut += sum(len(before or ()) + len(after) > self.max_length + 1 for _, before, after in requests)
            return super()._loglikelihood_tokens(requests, *args, **options)

        def _model_generate(self, context: Int[Tensor, "batch length"], *args: Any, **options: Any) -> Any:
            with prompt_length(self.of, context.shape[1]), checkpoint_defaults(self.of):
                return super()._model_generate(context, *args, **options)

    return HarnessModel


@contextmanager
def cuts_are_said(wrapped: Any, task: str) -> Iterator[None]:
    """Say after the block how many requests of a task were longer than the model reads.

    Warns:
        NeuroglotWarning: as said.
    """
    before = wrapped.cut
    yield
    if wrapped.cut > before:
        warnings.warn(
            f"{wrapped.cut - before:,} requests of {task} are longer than the {wrapped.max_length:,} positions of "
            f"{wrapped.of.name}; their beginnings were left out, as the harness does. Give fewer examples.",
            NeuroglotWarning,
            stacklevel=3,
        )
