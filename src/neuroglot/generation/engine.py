"""How prompts are continued: the settings every generation engine takes."""

from pydantic import BaseModel, Field

from neuroglot.generation.huggingface import BATCH

__all__ = ["Generation"]


class Generation(BaseModel, frozen=True):
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
    batch: int = Field(BATCH, ge=1)
    """Prompts a forward pass."""
    chat: bool = False
    """Use the tokenizer's chat template."""
