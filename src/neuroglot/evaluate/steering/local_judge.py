"""A judge in this process: a model that follows instructions, asked in its chat template, many questions at once."""

from collections.abc import Callable, Iterator, Sequence

from neuroglot.evaluate.steering.answers import nll_after
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
        replies = list(said)
        unread = [i for i, reply in enumerate(said) if not self.is_rating(reply)]
        if not unread:
            return replies
        after = self.model.encode(self.ratings)
        before = prompt_tokens(self.model, [questions[i] for i in unread], True)
        nll = iter(nll_after(self.model, [(asked, ids) for asked in before for ids in after]))
        for i in unread:
            likely = [next(nll)[0] for _ in after]
            replies[i] = self.ratings[likely.index(min(likely))]
        return replies
