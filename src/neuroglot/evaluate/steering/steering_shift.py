"""The language steering shift (LSS): does amplifying a language's neurons make its words likelier than the prompt's?"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.corpus.texts import check_texts
from neuroglot.edit.interventions import Scale, intervene
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import nll_after
from neuroglot.languages.tags import language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import mean_interval

__all__ = ["steering_shift"]

Texts = Mapping[str, Sequence[str | None]]


def steering_shift(
    model: Model,
    neurons: NeuronSet,
    prompts: Texts,
    answers: Texts,
    *,
    targets: Sequence[str] | None = None,
    factors: Sequence[float] = (2.0, 5.0, 10.0),
    site: Site = "activation",
    progress: bool = True,
) -> pd.DataFrame:
    """The language steering shift of each language of prompts, target and factor (Rahmanisa et al. 2025).

    A prompt in one language, such as «the capital of France is», has the same answer in that language and in the
    target's. d is the log-probability of the target's answer after the prompt less that of the prompt's own. LSS is the
    share of prompts on which d rises when the target's neurons are multiplied by the factor: 0.5 where amplifying has
    no direction, 1 where it always shifts towards the target. No text is generated and no language detected.

    It is defined as the published code of *Unveiling the Influence of Amplifying Language-Specific Neurons* computes
    it; numbers compare with the paper's on its prompts (MLAMA) and with its ways of amplifying only.

    Args:
        model: left as it was.
        neurons: whose sets are amplified.
        prompts: language → prompts; the i-th of every language is the same one. None where there is none.
        answers: language → answers to them, likewise.
        targets: by default the languages that have neurons and answers.
        factors: that activations are multiplied by.
        site: `heads` for sets of heads.
        progress: show a bar.

    Returns:
        A row a language of prompts, target and factor: source, target, factor, prompts, lss, low and high (its 95 %
        bootstrap interval over prompts), and rise, the mean of how far d rises, in nats.

    Raises:
        NeuroglotError: a target has no set or no answers, lists differ in length, or no prompt has both answers.
    """
    for texts in (*prompts.values(), *answers.values()):
        check_texts(texts, "A language")
    asked = {language_tag(tag): list(texts) for tag, texts in prompts.items()}
    known = {language_tag(tag): list(texts) for tag, texts in answers.items()}
    if len({len(texts) for texts in [*asked.values(), *known.values()]}) > 1:
        raise NeuroglotError("Prompts and answers are one list a language, all of one length; fill gaps with None.")
    neurons = checked_set(neurons).of_model(model, site=site)
    wanted = [language_tag(tag) for tag in targets or [tag for tag in neurons.languages if tag in known]]
    neurons.check_languages(wanted)
    if lacking := [tag for tag in wanted if tag not in known]:
        raise NeuroglotError(f"There are no answers in {lacking[0]}, so nothing can shift towards it.")
    pairs = {
        (source, target): _rows(asked[source], known.get(source, []), known[target])
        for target in wanted
        for source in asked
        if source != target
    }
    pairs = {pair: rows for pair, rows in pairs.items() if rows}
    if apart := [tag for tag in wanted if all(target != tag for _, target in pairs)]:
        raise NeuroglotError(
            f"No prompt in another language than {apart[0]} has an answer in its own language and one in {apart[0]}."
        )
    found = []
    with progress_bar("amplifying", len(pairs) * (1 + len(factors)), unit="pair", shown=progress) as advance:
        for (source, target), rows in pairs.items():
            intact = _differences(model, rows)
            advance(1, f"{source} to {target}")
            for factor in factors:
                with intervene(model, Scale(neurons[target], factor, site=site)):
                    rise = _differences(model, rows) - intact
                advance(1, f"{source} to {target}")
                rose = (rise > 0).double()
                low, high = (float(end) for end in mean_interval(rose))
                found.append(
                    {
                        "source": source, "target": target, "factor": factor, "prompts": len(rows),
                        "lss": float(rose.mean()), "low": low, "high": high, "rise": float(rise.mean()),
                    }
                )  # fmt: skip
    return pd.DataFrame(found)


def _rows(
    prompts: Sequence[str | None], own: Sequence[str | None], wanted: Sequence[str | None]
) -> list[tuple[str, str, str]]:
    """Prompt, its answer in its own language and in the target's, where there are all three and the answers differ."""
    rows = zip(prompts, own, wanted, strict=False)
    return [(prompt, mine, other) for prompt, mine, other in rows if prompt and mine and other and mine != other]


def _differences(model: Model, rows: Sequence[tuple[str, str, str]]) -> torch.Tensor:
    """d of each row: how much likelier the target's answer is than the prompt's own, in nats."""
    begin = tuple(model.begin)
    before = [(*begin, *ids) for ids in model.encode([prompt.strip() for prompt, _, _ in rows])]
    both = [model.encode([f" {row[place].strip()}" for row in rows]) for place in (1, 2)]
    passes = [(first, tuple(ids)) for answers in both for first, ids in zip(before, answers, strict=True)]
    nll = torch.tensor([total for total, _ in nll_after(model, passes)], dtype=torch.float64)
    return nll[: len(rows)] - nll[len(rows) :]
