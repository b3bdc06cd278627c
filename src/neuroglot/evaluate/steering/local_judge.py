"""A judge in this process: a model that follows instructions, asked in its chat template, many questions at once."""

import math
from collections.abc import Callable, Iterator, Sequence

from neuroglot.evaluate.steering.answers import choice_nll
from neuroglot.generation.engine import generate
from neuroglot.generation.prompts import prompt_tokens, said_around
from neuroglot.models.loading import load_model
from neuroglot.storage.results import digest_of_settings

__all__ = ["LocalModel"]

AT_ONCE = 512
"""Questions whose replies are kept together."""


class LocalModel:
    """Replies greedily, as an endpoint does at temperature 0. What cannot be read as a rating is asked by likelihood.

    A small model may reply with something else than a rating. Then its reply is the rating that it finds likeliest, so
    that every answer has a score.

    Args:
        source: the model, as `load_model` takes it; it needs a chat template.
        tokens: of a reply, at most.
        ratings: every reply that a rating is.
        is_rating: whether a reply can be read as one.

    Raises:
        NeuroglotError: the model cannot be opened.
    """

    def __init__(self, source: str, tokens: int, ratings: Sequence[str], is_rating: Callable[[str], bool]):
        self.model, self.tokens, self.ratings, self.is_rating = load_model(source), tokens, ratings, is_rating
        template = digest_of_settings(said_around(self.model, chat=True))
        self.where = f"local {self.model.fingerprint} {self.model.network.dtype} {template}"

    def replies(self, questions: Sequence[str]) -> Iterator[str]:
        """A reply to each question, in order.

        Raises:
            NeuroglotError: the model has no chat template, or a question is too long for it.
        """
        for first in range(0, len(questions), AT_ONCE):
            some = list(questions[first : first + AT_ONCE])
            yield from self._rated(some, generate(self.model, some, tokens=self.tokens, chat=True))

    def _rated(self, questions: Sequence[str], said: Sequence[str]) -> list[str]:
        unread = [i for i, reply in enumerate(said) if not self.is_rating(reply)]
        replies = list(said)
        for i, shares in zip(unread, self.likelihoods([questions[i] for i in unread]), strict=True):
            replies[i] = self.ratings[shares.index(max(shares))]
        return replies

    def likelihoods(self, questions: Sequence[str]) -> Iterator[list[float]]:
        """How likely each rating is as the reply, of all ratings: the shares of a question sum to 1.

        A rating's share is of replies that end there: `Rating: 1` is not that part of `Rating: 10`.

        Raises:
            NeuroglotError: as `replies`.
        """
        after = self.model.encode(self.ratings)
        for first in range(0, len(questions), AT_ONCE):
            before = prompt_tokens(self.model, list(questions[first : first + AT_ONCE]), True)
            for nll in choice_nll(self.model, before, after):
                yield shares_of(after, nll)


def shares_of(replies: Sequence[list[int]], nll: Sequence[float]) -> list[float]:
    """How likely each reply is, of all of these, where what begins another reply is not counted as the shorter one.

    Args:
        replies: their tokens.
        nll: of each as the beginning of what is said.
    """
    least = min(nll)
    begun = [math.exp(least - each) for each in nll]
    ended = list(begun)
    for place, ids in enumerate(replies):
        begins = [i for i, other in enumerate(replies) if len(other) < len(ids) and ids[: len(other)] == other]
        if begins:
            ended[max(begins, key=lambda i: len(replies[i]))] -= begun[place]
    ended = [max(share, 0.0) for share in ended]  # of rounding
    return [share / sum(ended) for share in ended]
