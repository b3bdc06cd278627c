"""Where an answer leaves its language: the word of its first wrong line from which another one explains it best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

__all__ = ["Beginning", "Identify", "beginning"]

Identify = Callable[[str], str | None]
"""Line in, language out; None where it cannot be told."""

AROUND = 2
"""Words on each side of one that are read with it: five, as many as a line needs to be judged."""


@dataclass(frozen=True)
class Beginning:
    """Where confusion begins.

    Attributes:
        line: the place of the line among all lines of the text, from 0.
        word: the place of the word in it.
        character: the place of its first letter in the text.
        text: the word.
    """

    line: int
    word: int
    character: int
    text: str

    def moved(self, line: int, start: int, kept: Sequence[int]) -> "Beginning":
        """The same in the text as it was written.

        Args:
            line: the place of its line.
            start: of that line, in characters.
            kept: of each character that was judged, its place in the line.
        """
        return replace(self, line=line, character=start + (kept[self.character] if kept else 0))


def beginning(line: str, words: Sequence[str], tag: str, identify: Identify, *, known: int | None = None) -> Beginning:
    """The word at which a line that is not in its language leaves it.

    Each word is read with two on either side. The line is cut in two so that most words are explained: those before the
    cut count by how surely they are in the language, those from it on by how surely they are not. Of equal cuts the
    first. An identifier that gives no probabilities is as sure as can be.

    Args:
        line: as it was judged.
        words: of it, in their order.
        tag: the language.
        identify: of lines; with a method `probability(text, tag)` that is asked.
        known: the word, where it is known already.
    """
    starts, at = [], 0
    for word in words:
        at = max(line.find(word, at), at)
        starts.append(at)
        at += len(word)
    first = _cut(line, starts, tag, identify) if known is None else known
    while first + 1 < len(words) and not words[first].strip():  # jieba's words may be blanks
        first += 1
    blank = len(words[first]) - len(words[first].lstrip())
    return Beginning(0, first, starts[first] + blank, words[first].strip())


def _cut(line: str, starts: Sequence[int], tag: str, identify: Identify) -> int:
    sure = getattr(identify, "probability", None) or (lambda text, tag: float(identify(text) == tag))
    ends = [*starts[1:], len(line)]
    windows = [(max(0, place - AROUND), min(len(starts), place + AROUND + 1) - 1) for place in range(len(starts))]
    found = [float(sure(line[starts[first] : ends[last]], tag)) for first, last in windows]
    most = explained = len(found) - sum(found)  # as if all of it were wrong
    cut = 0
    for place, share in enumerate(found, 1):
        explained += 2 * share - 1
        if explained > most and place < len(found):
            most, cut = explained, place
    return cut
