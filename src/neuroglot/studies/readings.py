"""What a perplexity-change matrix and a set of neurons show, in numbers and words."""

import pandas as pd

from neuroglot.evaluate import Perturbation
from neuroglot.neurons import NeuronSet
from neuroglot.report.figures import change_text

__all__ = ["leading_words", "own_words", "share_leading", "thirds"]


def share_leading(result: Perturbation) -> float:
    """The share of languages, English left out, whose own cell is the largest of its row."""
    leads = result.leads.drop("en", errors="ignore")
    own = [bool(leads[tag]) and result.sizes[str(tag)] > 0 for tag in leads.index]
    return sum(own) / len(own) if own else 0.0


def leading_words(result: Perturbation) -> str:
    """The same in words."""
    leads = result.leads.drop("en", errors="ignore")
    number = round(share_leading(result) * len(leads))
    beside = " other than English" if "en" in result.leads else ""
    return f"the own cell is the largest of its row for {number} of {len(leads)} languages{beside}"


def own_words(result: Perturbation) -> str:
    """How much a language and the others rise with its neurons off, by median."""
    change = result.change
    own = pd.Series({tag: change.loc[tag, tag] for tag in result.leads.index})
    other = pd.Series(
        [change.loc[row, tag] for row in change.index for tag in change.columns if row != tag and row in change]
    )
    return f"median change of the own cells {change_text(own.median())}, of the others {change_text(other.median())}"


def thirds(neurons: NeuronSet) -> tuple[float, float, float]:
    """The share of the neurons, added up over languages, in the first, middle and last third of the layers."""
    counts = neurons.mask.sum((0, 2)).double()
    third, total = len(counts) // 3, max(float(counts.sum()), 1.0)
    first, last = float(counts[:third].sum()) / total, float(counts[len(counts) - third :].sum()) / total
    return first, 1 - first - last, last
