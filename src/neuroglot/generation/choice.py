"""The next token of every row, chosen on the device: repetition penalty, temperature, top-p, and noise.

The noise of a row is a function of the seed, its stream, its position and the token, so what it writes depends neither
on the rows beside it nor on the device or the engine. Adding Gumbel noise to log-probabilities and taking the largest
is a sample of them (Gumbel 1954; Maddison et al. 2014).
"""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroglot.errors import NeuroglotWarning

__all__ = ["Choice", "gumbel", "no_number", "say_lost"]

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen; see `generate`."""

    repetition_penalty: float = 1.0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def penalised(
        self, logits: Float[Tensor, "rows vocabulary"], seen: Bool[Tensor, "rows words"]
    ) -> Float[Tensor, "rows vocabulary"]:
        """Logits of tokens that were read or written are divided by the penalty, multiplied where negative."""
        if self.repetition_penalty == 1:
            return logits
        other = torch.where(logits < 0, logits * self.repetition_penalty, logits / self.repetition_penalty)
        return torch.where(seen, other, logits)

    def drawn(
        self, logits: Float[Tensor, "rows vocabulary"], stream: Int[Tensor, " rows"], position: Int[Tensor, " rows"]
    ) -> Int[Tensor, " rows"]:
        """The likeliest token, or a sample of those that top-p leaves."""
        if not self.temperature:
            return logits.argmax(-1)
        logits = logits / self.temperature
        if self.top_p < 1:
            ordered, order = logits.sort(dim=-1, descending=True, stable=True)
            probability = ordered.softmax(-1)
            beyond = probability.cumsum(-1) - probability >= self.top_p  # those before it are enough
            logits = logits.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        return (logits + gumbel(self.seed, stream, position, logits.shape[-1])).argmax(-1)


def no_number(logits: Float[Tensor, "rows vocabulary"]) -> Bool[Tensor, " rows"]:
    """Rows with a NaN, or whose largest logit is infinite: no token of them is any likelier than another."""
    return ~logits.amax(-1).isfinite()


def say_lost(name: str, answers: int) -> None:
    """Warn of answers that ended where the model gave no numbers."""
    if answers:
        warnings.warn(
            f"{answers} {'answers end' if answers > 1 else 'answer ends'} where the logits of {name} are not numbers "
            "(NaN or infinite); load it in float32 or bfloat16, or check its weights and the interventions in force.",
            NeuroglotWarning,
            stacklevel=2,
        )


def gumbel(
    seed: int, stream: Int[Tensor, " rows"], position: Int[Tensor, " rows"], vocabulary: int
) -> Float[Tensor, "rows vocabulary"]:
    """Standard Gumbel noise for every token, from a hash of the seed, the row's stream, its position and the token."""
    row = _mix(_mix((stream & WORD) ^ _mixed(seed)) ^ (position * 0x9E3779B9 & WORD))
    token = _mix(torch.arange(vocabulary, device=stream.device) * 0x85EBCA6B & WORD)
    word = _mix(row[:, None] ^ token)
    uniform = (word.double() + 0.5) / (WORD + 1)
    return -(-uniform.log()).log().float()


def _mix(x: Tensor) -> Tensor:
    """A permutation of 32-bit words after which every bit depends on every bit, in int64."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & WORD
    return x ^ (x >> 16)


def _mixed(seed: int) -> int:
    return int(_mix(torch.tensor(seed & WORD))) ^ int(_mix(torch.tensor((seed >> 32) & WORD)) * 31 & WORD)
