"""How often each token of a vocabulary is, by language, and which language it is therefore of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int64
from torch import Tensor

from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers
from neuroglot.tokens.packing import tokenize

__all__ = ["SHARED", "UNSEEN", "TokenLanguages", "token_counts"]

SHARED, UNSEEN = "shared", "unseen"


@takes_numbers
def token_counts(model: Model, corpus: Corpus, tokens: int) -> Int64[Tensor, "vocabulary languages"]:
    """How often each token comes among the first `tokens` tokens of each language's text; the model is not run."""
    check_is_corpus(corpus)
    rows = [tokenize(model, corpus[tag], tokens).long() for tag in corpus.languages]
    return torch.stack([row.bincount(minlength=model.vocabulary) for row in rows], dim=1)


@dataclass(frozen=True, eq=False)
class TokenLanguages:
    """Token → whose it is: one language's own, shared by several, or unseen.

    The rule: let r(t, k) be the share of language k's tokens that are t. The token is *unseen* if it was counted fewer
    than `least` times in all. It is a language's *own* if at least `share` of Σ_k r(t, k) is that language's. Any other
    is *shared*: punctuation, digits, bytes, and words and pieces that languages have in common.

    Attributes:
        languages: K tags.
        owner: (V,) the number of the language; K for shared and K + 1 for unseen tokens.
    """

    languages: tuple[str, ...]
    owner: Int64[Tensor, " vocabulary"]

    @classmethod
    @takes_numbers
    def of(
        cls,
        counts: Int64[Tensor, "vocabulary languages"],
        languages: Sequence[str],
        *,
        share: float = 0.8,
        least: int = 2,
    ) -> "TokenLanguages":
        """Apply the rule to counts.

        Args:
            counts: of `token_counts`.
            languages: K tags, in their order.
            share: from which a token is one language's own; above a half, so that no two can have it.
            least: how often a token must be counted in all.

        Raises:
            NeuroglotError: `share` is not above a half and at most 1, or a language has no token.
        """
        if not 0.5 < share <= 1:
            raise NeuroglotError(f"share must be above 0.5 and at most 1, not {share}.")
        total = counts.sum(0)
        if bool((total == 0).any()):
            raise NeuroglotError(f"There is no token of {languages[int(total.argmin())]} to count; give it text.")
        rates = counts.to(torch.float64) / total
        parts = rates / rates.sum(1, keepdim=True)
        most = parts.max(1)
        owner = torch.where(most.values >= share, most.indices, len(languages))
        owner = torch.where(counts.sum(1) < least, len(languages) + 1, owner)
        return cls(tuple(languages), owner)

    @property
    def owners(self) -> tuple[str, ...]:
        """The K languages, `shared` and `unseen`."""
        return (*self.languages, SHARED, UNSEEN)

    def frame(self, tokenizer: Any = None) -> pd.DataFrame:
        """A row a token: token (its number), owner, and with a tokenizer text, as it writes the token alone."""
        table = pd.DataFrame(
            {
                "token": range(len(self.owner)),
                "owner": pd.Categorical.from_codes(self.owner.numpy(), pd.Index([*self.owners])),
            }
        )
        if tokenizer is not None:
            table["text"] = tokenizer.batch_decode([[token] for token in range(len(self.owner))])
        return table

    def sizes(self) -> dict[str, int]:
        """How many tokens each of the owners has."""
        counts = self.owner.bincount(minlength=len(self.owners)).tolist()
        return dict(zip(self.owners, counts, strict=True))
