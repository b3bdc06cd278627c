"""One tuned model a language: on instructions or plain text, some neurons only, with a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.errors import NeuroglotError
from neuroglot.pruning.vocabulary import with_tokens_of
from neuroglot.run.settings import ModelSettings
from neuroglot.tokens.packing import pack

__all__ = ["tune_languages"]


def tune_languages(
    model: ModelSettings,
    examples: Mapping[str, Sequence[Pair]] | Corpus,
    folder: Path,
    settings: TuneSettings,
    *,
    tokens: int = 1_000_000,
    block: int = 512,
    only: NeuronSet | Literal["routers"] | None = None,
    teacher: ModelSettings | None = None,
    progress: bool = True,
) -> Iterator[Path]:
    """Tune a model on each language, each in its folder; arguments and errors are those of `tune`.

    Args:
        model: opened again for each language, as tuning changes it.
        examples: instructions, or plain text by language.
        folder: where each language's folder goes.
        settings: how.
        tokens: at most so many of each language's plain text.
        block: tokens a block of plain text.
        only: of each language its own neurons are trained; or the routers of a mixture of experts.
        teacher: of a student with a smaller vocabulary it keeps the student's tokens only.
        progress: show bars.

    Yields:
        What was written for each language.
    """
    languages = examples.languages if isinstance(examples, Corpus) else list(examples)
    if isinstance(only, NeuronSet):
        only.check_languages(languages)
    teaches = teacher.load() if teacher is not None else None
    for tag in languages:
        loaded = model.load()
        of_language: Sequence[Pair] | Tensor
        if isinstance(examples, Corpus):
            of_language = pack(loaded, examples[tag], tag, block=block, tokens=tokens)
        else:
            of_language = examples[tag]
        only = only.of_model(loaded) if isinstance(only, NeuronSet) else only
        if isinstance(only, NeuronSet) and not bool(only[tag].any()):
            raise NeuroglotError(f"No neuron is said to be {tag}'s, so there is none to train; leave out {tag}.")
        with ExitStack() as kept:
            if teaches is not None:
                kept.enter_context(with_tokens_of(teaches, loaded))
            yield tune(
                loaded, of_language, folder / tag, settings, language=tag, teacher=teaches, progress=progress,
                only=only[tag] if isinstance(only, NeuronSet) else only,
            )  # fmt: skip
