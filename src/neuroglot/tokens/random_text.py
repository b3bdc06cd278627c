"""Text of random tokens, as one more language: what a language's neurons must not share."""

from collections.abc import Iterator

import torch

from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers

__all__ = ["CONTROL", "with_random_tokens"]

CONTROL = "art"
"""What the control is called: the tag of artificial languages."""
TOKENS = 64  # of a document


@takes_numbers
def with_random_tokens(model: Model, corpus: Corpus, *, tokens: int, seed: int = 0, tag: str = CONTROL) -> Corpus:
    """The corpus with a control beside its languages: documents of tokens drawn from the whole vocabulary alike.

    Neurons that answer to anything unexpected, such as rare tokens, look like a language's where that language is rare
    in training. They are active on the control too; see `identify.random_token_control`. What is drawn is written as
    text and tokenised again, so a few tokens join to others.

    Args:
        model: whose vocabulary; special tokens are left out.
        corpus: of the languages.
        tokens: of the control, about.
        seed: of the draw.
        tag: of the control.

    Raises:
        NeuroglotError: the corpus has this language already.
    """
    if tag in corpus.languages:
        raise NeuroglotError(f"{corpus.name} has {tag} already; give the control another tag.")
    special = set(model.tokenizer.all_special_ids)
    size = min(model.vocabulary, len(model.tokenizer))
    known = torch.tensor([token for token in range(size) if token not in special])

    def read() -> Iterator[str | None]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(-(-tokens // TOKENS)):
            drawn = known[torch.randint(len(known), (TOKENS,), generator=generator)]
            yield model.tokenizer.decode(drawn.tolist()).replace("\ufffd", "")

    documents = {language: corpus[language] for language in corpus.languages}
    return Corpus(documents | {tag: Documents(read)}, name=f"{corpus.name} and random tokens")
