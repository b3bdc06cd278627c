"""The residual stream: where it is read and written.

It is what a decoder layer gives out, after everything that the layer adds and before any norm that follows the last
one: (batch, tokens, width). Some families' layers give it alone, others as the first of several things.
"""

from typing import Any

from torch import Tensor

from neuroglot.errors import NeuroglotError

__all__ = ["stream_of", "with_stream"]


def stream_of(output: Any) -> Tensor:
    """The stream (batch, tokens, width) in what a layer gave.

    Raises:
        NeuroglotError: there are several streams side by side, as in Gemma 3n.
    """
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    if states.ndim != 3:
        raise NeuroglotError(
            f"This model carries {len(states)} residual streams side by side, of which none is the state of a token; "
            "leave states, the residual statistic and steps on the residual stream out."
        )
    return states


def with_stream(output: Any, states: Tensor) -> Any:
    """What a layer gave, with another stream in it."""
    if isinstance(output, list):  # GPT's
        return [states, *output[1:]]
    return (states, *output[1:]) if isinstance(output, tuple) else states
