"""Switch each language's experts of a tiny OLMoE off, and measure every language, beside random experts.

    python examples/train_tiny/train.py tiny-moe --experts 16 --steps 2000
    python examples/train_tiny/routed.py tiny-moe/step-02000

A language's experts are those that it is routed to most beyond the mean of the other languages, as many in each layer.
"""

import argparse

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

import neuroglot as ng


def own_experts(recording: ng.Recording, share: float) -> Bool[Tensor, "languages layers experts"]:
    """For each language the same share of every layer's experts: those of the greatest lead over the others' mean."""
    frequency = ng.experts.frequencies(recording)
    others = (frequency.sum(0, keepdim=True) - frequency) / (len(frequency) - 1)
    return torch.stack([ng.experts.keep_share(lead, share) for lead in frequency - others])


def measured(
    model: ng.Model, recorded: ng.Corpus, held_out: ng.Corpus, *, share: float = 0.25, seeds: int = 3, tokens: int
) -> pd.DataFrame:
    """Relative change of perplexity, a row a language whose experts are off (and `random`), a column one measured."""
    recording = ng.record(model, recorded, tokens=tokens, block=128, progress=False)
    off = own_experts(recording, share)
    intact = ng.evaluate.perplexity(model, held_out, block=128, progress=False)

    def change(experts: Bool[Tensor, "layers experts"]) -> dict[str, float]:
        with ng.intervene(model, ng.DeactivateExperts(experts)):
            after = ng.evaluate.perplexity(model, held_out, block=128, progress=False)
        return {tag: after[tag] / intact[tag] - 1 for tag in intact}

    rows = {tag: change(experts) for tag, experts in zip(recording.languages, off, strict=True)}
    random = [change(ng.experts.keep_random(off[0], seed)) for seed in range(seeds)]
    rows["random"] = {tag: sum(each[tag] for each in random) / seeds for tag in intact}
    return pd.DataFrame(rows).T


def main() -> None:
    """Print the table, and in how many rows the language itself is hurt most, and more than by random experts."""
    arguments = argparse.ArgumentParser(description=main.__doc__)
    arguments.add_argument("checkpoint")
    arguments.add_argument("--share", type=float, default=0.25, help="of each layer's experts")
    arguments.add_argument("--tokens", type=int, default=20_000, help="recorded of each language")
    given = arguments.parse_args()
    recorded, held_out = ng.load_corpus("starter").split(5)
    table = measured(ng.load_model(given.checkpoint), recorded, held_out, share=given.share, tokens=given.tokens)
    print(table.round(3).to_string())
    own = [tag for tag in table.columns if table.loc[tag].idxmax() == tag]
    beyond = [tag for tag in table.columns if table.loc[tag, tag] > table.loc["random", tag]]
    print(f"{len(own)} of {len(table.columns)} languages are hurt most by their own experts: {', '.join(own)}")
    print(f"{len(beyond)} are hurt more by them than by random ones: {', '.join(beyond)}")


if __name__ == "__main__":
    main()
