"""The random-token control: how many of a language's neurons are those of text without any language, too."""

import pandas as pd
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.errors import NeuroglotError

__all__ = ["random_token_control"]


def random_token_control(neurons: NeuronSet, control: str = "art") -> pd.DataFrame:
    """What each language's set shares with that of random tokens; see `tokens.random_text.with_random_tokens`.

    Args:
        neurons: found in a recording that had the control as one more language.
        control: its tag.

    Returns:
        A row a language: language, neurons, shared (also the control's), share, by_chance (what two sets of these sizes
        share if they are drawn alike from all neurons) and ratio; NaN for an empty set.

    Raises:
        NeuroglotError: there is no control among the sets.
    """
    if control not in neurons.languages:
        raise NeuroglotError(
            f"These neurons have no control {control}; record text of random tokens as one more language, and find "
            "neurons in that."
        )
    own: Tensor = neurons[control]
    total = sum(neurons.widths)
    rows = []
    for tag in neurons.languages:
        if tag != control:
            size, shared = int(neurons[tag].sum()), int((neurons[tag] & own).sum())
            chance = size * int(own.sum()) / total
            rows.append(
                {
                    "language": tag,
                    "neurons": size,
                    "shared": shared,
                    "share": shared / size if size else float("nan"),
                    "by_chance": chance / size if size else float("nan"),
                    "ratio": shared / chance if chance else float("nan"),
                }
            )
    return pd.DataFrame(rows)
