"""How prompts are continued: the settings every generation engine takes."""

from math import isfinite

from pydantic import BaseModel, Field

from neuroglot.errors import NeuroglotError

__all__ = ["Generation", "check_settings"]


class Generation(BaseModel, frozen=True, allow_inf_nan=False):
    """How prompts are continued; see `generate`."""

    tokens: int = Field(64, ge=1)
    """New tokens at most."""
    repetition_penalty: float = Field(1.1, gt=0)
    """As the LAPE paper has it (§3.1)."""
    temperature: float = Field(0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0, le=1)
    """When sampling."""
    seed: int = 0
    """Of the sampling."""
    batch: int | None = Field(None, ge=1)
    """Prompts a forward pass; by default as many as the device likes."""
    chat: bool = False
    """Use the tokenizer's chat template."""


def check_settings(tokens: int, repetition_penalty: float, temperature: float, top_p: float, batch: int | None) -> None:
    """Refuse settings that mean nothing.

    Raises:
        NeuroglotError: as said.
    """
    right = repetition_penalty > 0 and temperature >= 0 and 0 < top_p <= 1 and tokens >= 1
    right = right and isfinite(repetition_penalty) and isfinite(temperature)
    if not right or (batch is not None and batch < 1):
        raise NeuroglotError(
            "Generation takes a finite repetition penalty above 0, a finite temperature of 0 or more, a top_p above 0 "
            "and at most 1, and at least one token and one prompt a batch."
        )
