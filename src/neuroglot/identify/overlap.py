"""Sets of neurons beside one another: how much two methods agree."""

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.origin import Origin, check_origin
from neuroglot.errors import NeuroglotError

__all__ = ["compare"]


def compare(first: NeuronSet, second: NeuronSet) -> pd.DataFrame:
    """How much two methods agree about each language that both have.

    Returns:
        A row a language: `first` and `second` (sizes), `shared`, `by_chance` (what two random sets of these sizes
        share on average) and `jaccard` (shared over either; NaN where both are empty).

    Raises:
        NeuroglotError: the shapes or the experts that number the neurons differ, or no language is in both.
    """
    if first.shape != second.shape:
        raise NeuroglotError(f"These {first.units} are of layers {first.shape} and {second.shape}: two models.")
    # Sets of a base model and of its tuned variant are compared on purpose, so other weights are not said.
    check_origin(first.about, Origin("the other's model", None, second.about.get("experts", "unknown")))
    common = [tag for tag in first.languages if tag in second.languages]
    if not common:
        raise NeuroglotError(f"These sets of {first.units} have no language in common.")
    one, two = first.select(common).mask, second.select(common).mask
    table = pd.DataFrame(
        {
            "first": one.sum((1, 2)).tolist(),
            "second": two.sum((1, 2)).tolist(),
            "shared": (one & two).sum((1, 2)).tolist(),
        },
        index=pd.Index(common, name="language"),
    )
    table["by_chance"] = table["first"] * table["second"] / min(sum(first.widths), sum(second.widths))
    table["jaccard"] = table["shared"] / (table["first"] + table["second"] - table["shared"])
    return table
