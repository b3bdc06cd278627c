"""Amplification: does a larger activation of a language's neurons make the model answer in it?"""

from collections.abc import Mapping, Sequence

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.corpus.texts import prompts_by_language
from neuroglot.edit.conditions import Condition
from neuroglot.edit.interventions import Scale
from neuroglot.errors import NeuroglotError
from neuroglot.generation.engine import generate
from neuroglot.generation.settings import Generation
from neuroglot.languages.detection import LanguageIdentifier
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import paired

__all__ = ["amplification"]


def amplification(
    model: Model,
    neurons: NeuronSet,
    prompts: Mapping[str, Sequence[str]],
    *,
    targets: Sequence[str] | None = None,
    factors: Sequence[float] = (2.0, 5.0, 10.0),
    site: Site = "activation",
    generation: Generation | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """How many answers change into the target language, by target and factor.

    A target's neurons are multiplied by the factor while the model answers prompts in the other languages. `gain` is
    the share of these answers whose detected language is the target, less the share among the intact model's answers to
    the same prompts: 0 where amplifying does nothing, 1 where it always shifts the language. The score of Rahmanisa et
    al. (2025), which needs no answers, is `steering_shift`.

    Args:
        model: left as it was.
        neurons: whose sets are amplified.
        prompts: language → prompts.
        targets: by default the languages of the neurons.
        factors: that activations are multiplied by.
        site: `heads` for sets of heads.
        generation: how prompts are continued.
        progress: show a bar.

    Returns:
        A row a target and factor: target, factor, answers, intact, amplified (shares of answers in the target), gain,
        low and high (its 95 % bootstrap interval over prompts), p (McNemar's exact test).

    Raises:
        NeuroglotError: a target has no set, a language cannot be detected, or there is no prompt in another language.
    """
    neurons = checked_set(neurons).of_model(model, site=site)
    targets = [language_tag(tag) for tag in targets or neurons.languages]
    neurons.check_languages(targets)
    sources = prompts_by_language(prompts)
    identify = LanguageIdentifier([*targets, *sources])
    how = (generation or Generation()).model_dump()
    asked = [(tag, text) for tag, texts in sources.items() for text in texts]
    if lonely := [tag for tag in targets if all(source == tag for source, _ in asked)]:
        raise NeuroglotError(f"There is no prompt in another language than {lonely[0]}, so no answer can shift to it.")
    texts = [text for _, text in asked]
    rows = []
    total = len(texts) * (1 + len(targets) * len(factors))
    with progress_bar("amplifying", total, unit="answer", shown=progress) as advance:
        intact = [_detected(identify, answer, targets) for answer in generate(model, texts, advance=advance, **how)]
        for target in targets:
            others = [place for place, (source, _) in enumerate(asked) if source != target]
            before = [float(intact[place] == target) for place in others]
            for factor in factors:
                change = Condition(f"{target} × {factor:g}", (Scale(neurons[target], factor, site=site),))
                some = [texts[place] for place in others]
                written = generate(model, some, recipes=[change] * len(some), advance=advance, **how)
                after = [float(_detected(identify, answer, targets) == target) for answer in written]
                found = paired(before, after)
                rows.append(
                    {
                        "target": target,
                        "factor": factor,
                        "answers": len(others),
                        "intact": sum(before) / len(before),
                        "amplified": sum(after) / len(after),
                        "gain": found.difference,
                        "low": found.low,
                        "high": found.high,
                        "p": found.p,
                    }
                )
    return pd.DataFrame(rows)


def _detected(identify: LanguageIdentifier, answer: str, targets: Sequence[str]) -> str | None:
    """Which of the targets an answer is in; None if in none, or if it is too short to tell."""
    found = identify(answer)
    return None if found is None else closest(found, targets)
