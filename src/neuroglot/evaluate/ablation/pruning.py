"""What is left of a language when only some experts are: the papers' tables of pruning."""

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.artifacts.partition import Partition
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Deactivate, intervene
from neuroglot.edit.routing import DeactivateExperts
from neuroglot.evaluate.likelihood.perplexity import perplexity_of
from neuroglot.evaluate.likelihood.sample_perplexity import mean_sample_nll, tokenized_samples
from neuroglot.experts.keep import keep_random, same_width
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.storage.given import takes_numbers

__all__ = ["measure_pruning", "pruning_table", "without"]


@takes_numbers
def measure_pruning(
    model: Model,
    corpus: Corpus,
    partition: Partition | None,
    keep: Mapping[str, Mapping[str, Bool[Tensor, "layers units"]]],
    *,
    samples: int = 1_000,
    length: int | None = None,
    seeds: int = 3,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Perplexity of each language with its own experts only, beside random ones, as many in each layer.

    Neurons are switched off, or experts of a native mixture taken out of the router's choice: that gives the logits of
    the pruned model without writing one.

    Args:
        model: intact; left as it was.
        corpus: held-out text.
        partition: the experts; None where they are the model's own.
        keep: a name of the choice (`threshold 0.05`) → language → (L, E) bool, the experts kept; or of a native mixture
            (L, N), the neurons kept in each of its experts.
        samples: at most so many of each language.
        length: tokens a sample at most; see `tokenized_samples`.
        seeds: how many random choices.
        batch_tokens: tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU.
        progress: show a bar.

    Returns:
        A row for each measurement: choice, language, kind (`experts`, `random` or `original`), seed, proportion kept of
        the experts (or of their neurons), perplexity.

    Raises:
        NeuroglotError: the partition is of another model, a language has no sample, or fewer experts would be left than
            a router chooses.
    """
    if partition is not None:
        partition.check(model)
    text = tokenized_samples(model, corpus, samples=samples, length=length)
    size = {tag: sum(len(row) for row in rows) for tag, rows in text.items()}
    total = sum(size[tag] for tag in text) + sum((1 + seeds) * size[tag] for of in keep.values() for tag in of)
    rows: list[dict[str, object]] = []
    with token_progress("pruning", total, shown=progress) as advance:

        def measure(
            choice: str, tag: str, kind: str, seed: int | None, kept: Bool[Tensor, "layers units"] | None
        ) -> None:
            off = [] if kept is None else [without(model, partition, kept)]
            with intervene(model, *off):
                nll = mean_sample_nll(model, text[tag], tag, batch_tokens=batch_tokens, advance=advance)
            share = 1.0 if kept is None else _share(model, partition, kept)
            perplexity = perplexity_of(nll)
            rows.append(
                {"choice": choice, "language": tag, "kind": kind, "seed": seed, "proportion": share,
                 "perplexity": perplexity}
            )  # fmt: skip

        for tag in text:
            measure("", tag, "original", None, None)
        for choice, of in keep.items():
            for tag, kept in of.items():
                measure(choice, tag, "experts", None, kept)
                for seed in range(seeds):
                    measure(choice, tag, "random", seed, _random(model, partition, kept, seed))
    return pd.DataFrame(rows)


def _of_neurons(model: Model, partition: Partition | None, kept: Bool[Tensor, "layers units"]) -> bool:
    """Whether neurons in a native mixture's experts are meant, and not experts."""
    return partition is None and kept.shape[1] == model.neurons


def _share(model: Model, partition: Partition | None, kept: Bool[Tensor, "layers units"]) -> float:
    """The proportion of the experts kept, or of their neurons."""
    if partition is not None:
        return float(kept.double().mean())
    if not _of_neurons(model, partition, kept):
        return float(kept[list(model.mixtures)].double().mean())
    own = [kept[layer, : mixture.experts * mixture.width] for layer, mixture in model.mixtures.items()]
    return float(torch.cat(own).double().mean())


def _random(
    model: Model, partition: Partition | None, like: Bool[Tensor, "layers units"], seed: int
) -> Bool[Tensor, "layers units"]:
    if not _of_neurons(model, partition, like):
        return keep_random(like, seed)
    assert model.expert_sizes is not None
    return same_width(like, model.expert_sizes, seed)


def without(
    model: Model, partition: Partition | None, kept: Bool[Tensor, "layers units"]
) -> Deactivate | DeactivateExperts:
    """What switches off all experts but these: their neurons, or, of a native mixture, the router's way to them.

    Neurons of a native mixture, (L, N), are switched off in its experts, which are chosen as before.
    """
    if partition is not None:
        return Deactivate(partition.neurons(~kept))
    if _of_neurons(model, partition, kept):
        return Deactivate(model.exists & ~kept)
    off = torch.zeros_like(kept)
    for layer, mixture in model.mixtures.items():
        off[layer, : mixture.experts] = ~kept[layer, : mixture.experts]
    return DeactivateExperts(off)


def pruning_table(measured: pd.DataFrame) -> pd.DataFrame:
    """The paper's table (Tables 2, 8, 9): by choice and language, proportion, random mean and std, experts, original.

    The standard deviation is that of the sample, over seeds.
    """
    original = measured[measured.kind == "original"].set_index("language").perplexity
    rows = []
    for (choice, tag), group in measured[measured.kind != "original"].groupby(["choice", "language"], sort=False):
        random = group[group.kind == "random"].perplexity
        ours = group[group.kind == "experts"].iloc[0]
        rows.append(
            {"choice": choice, "language": tag, "proportion": ours.proportion, "random": random.mean(),
             "random_std": random.std(ddof=1), "experts": ours.perplexity, "original": float(original.loc[str(tag)])}
        )  # fmt: skip
    return pd.DataFrame(rows)
