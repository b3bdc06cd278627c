"""Documents that are there twice. A copy on the other side of a split would be measured where it was recorded."""

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

__all__ = ["copied_samples", "with_first"]

REMEMBERED = 1_000_000
"""Documents of a language whose copies are found: about 0.1 GB."""
BEGINNING = 1 << 18
"""Characters that are compared, beside the length."""


def with_first(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Each text after the position of the first that is the same, which is its own where it is no copy.

    Texts are the same that differ in blanks only, or in how their letters are composed. What comes later decides
    nothing, so a stream can be read as far as one likes.
    """
    first: dict[int, int] = {}
    for index, text in enumerate(texts):
        digest = _digest(text)
        place = first.get(digest, index)
        if place == index and index < REMEMBERED:
            first[digest] = index
        yield place, text


def copied_samples(columns: Mapping[str, Iterable[str | None]], every: int) -> tuple[int, int, list[str]]:
    """How many held-out samples of a parallel corpus have a text that another, not held out, has in that language.

    Args:
        columns: language → its text of every sample, in order.
        every: which are held out: every so manieth.

    Returns:
        Their number, that of all that are held out, and the languages of such texts. What is beyond the first
        `REMEMBERED` samples is not read.
    """
    read: dict[str, set[int]] = {tag: set() for tag in columns}
    held: list[dict[str, int]] = []
    for index, texts in enumerate(itertools.islice(zip(*columns.values(), strict=False), REMEMBERED)):
        digests = {tag: _digest(text) for tag, text in zip(columns, texts, strict=True) if text is not None}
        if index % every == every - 1:
            held.append(digests)
        else:
            for tag, digest in digests.items():
                read[tag].add(digest)
    copies = [[tag for tag, digest in digests.items() if digest in read[tag]] for digests in held]
    found = {tag for tags in copies for tag in tags}
    return sum(map(bool, copies)), len(held), [tag for tag in columns if tag in found]


def _digest(text: str) -> int:
    plain = " ".join(unicodedata.normalize("NFC", text[:BEGINNING]).split())
    if len(text) > BEGINNING:
        plain += f" {len(text)}"
    return int.from_bytes(blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest())
