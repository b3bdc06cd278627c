"""The value: text by language."""

import hashlib
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from neuroglot.corpus.copies import copied_samples, with_first
from neuroglot.corpus.texts import check_texts, text_or_none
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.languages.tags import closest, is_language, language_tag
from neuroglot.storage.given import integer

__all__ = ["Corpus", "Documents", "check_is_corpus"]


class Documents:
    """The documents of one language, in order; iterate as often as you like.

    `read` gives a fresh iterator over the texts, with None or blank text where a sample lacks this language.
    """

    def __init__(self, read: Callable[[], Iterator[str | None]]):
        self._read = read

    def aligned(self) -> Iterator[str | None]:
        """Every sample of a parallel corpus in order, None where this language lacks it."""
        for text in self._read():
            text = text_or_none(text)
            yield None if not text or text.isspace() else text

    def __iter__(self) -> Iterator[str]:
        return (text for text in self.aligned() if text is not None)


class Corpus:
    """Text by language: `corpus["fr"]` are the French documents, `corpus.languages` the tags, in order.

    A parallel corpus has `keys`: one for each sample, or None where the source names none; `samples()` walks it.
    """

    def __init__(
        self,
        documents: Mapping[str, Iterable[str | None] | Documents],
        *,
        parallel: bool = False,
        keys: Sequence[str] | None = None,
        name: str = "corpus",
    ):
        self.name = name
        self.parallel = parallel
        self.keys = keys
        self._documents = {
            language_tag(tag): texts if isinstance(texts, Documents) else Documents(_reader(texts, tag))
            for tag, texts in documents.items()
        }
        if other := [tag for tag in documents if not is_language(tag)]:
            raise NeuroglotError(f"{other[0]!r} is not a language tag of text; leave it out.")
        if len(self._documents) < len(documents):
            raise NeuroglotError(f"{name} has two names for one language among {', '.join(documents)}; keep one.")

    @property
    def languages(self) -> tuple[str, ...]:
        """The language tags, in the order in which results will list them."""
        return tuple(self._documents)

    def __getitem__(self, language: str) -> Documents:
        tag = language_tag(language)
        if tag not in self._documents:
            raise NeuroglotError(f"{self.name} has no {tag}; it has {', '.join(self.languages)}.")
        return self._documents[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self.languages)

    def __contains__(self, language: object) -> bool:
        return isinstance(language, str) and is_language(language) and language_tag(language) in self._documents

    def __repr__(self) -> str:
        kind = "parallel corpus" if self.parallel else "corpus"
        return f"<{kind} {self.name}: {', '.join(self.languages)}>"

    def check_parallel(self) -> None:
        """Refuse a corpus that has no samples to walk.

        Raises:
            NeuroglotError: the corpus is not parallel.
        """
        if not self.parallel:
            raise NeuroglotError(
                f"{self.name} is not a parallel corpus; give one file with a column a language or JSON lines with all "
                "of them, or load it with parallel=True if document i means the same in every language."
            )

    def samples(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        """The samples of a parallel corpus: key, and text by language (None where it is missing).

        Raises:
            NeuroglotError: the corpus is not parallel, or one language has more samples than another.
        """
        self.check_parallel()
        keys = iter(self.keys if self.keys is not None else (str(i) for i in itertools.count()))
        columns = [documents.aligned() for documents in self._documents.values()]
        ended: Any = object()
        for texts in itertools.zip_longest(*columns, fillvalue=ended):
            key = next(keys, None)
            if key is None:
                raise NeuroglotError(f"{self.name} has more samples than keys; give each its own.")
            if ended in texts:
                some, other = (self.languages[[text is ended for text in texts].index(kind)] for kind in (True, False))
                raise NeuroglotError(
                    f"{self.name} has more samples in {other} than in {some}, so they are not aligned."
                )
            yield key, dict(zip(self.languages, texts, strict=True))

    def select(self, languages: Sequence[str]) -> "Corpus":
        """The same text, of these languages only and in this order."""
        found = Corpus(
            {tag: self[tag] for tag in languages if tag != "mul"},
            parallel=self.parallel, keys=self.keys, name=self.name,
        )  # fmt: skip
        found._documents = {language_tag(tag): self[tag] for tag in languages}  # `mul` is of `together`
        return found

    def tagged_as(self, tags: Iterable[str]) -> "Corpus":
        """The same text, each language under the tag that it has among these: `zh` under `zh-CN`, if there is no `zh`.

        A language that is none of them keeps its tag.
        """
        known = [*tags]
        names = {tag: closest(tag, known) or tag for tag in self.languages}
        names = {tag: tag if name in self._documents or [*names.values()].count(name) > 1 else name
                 for tag, name in names.items()}  # fmt: skip
        return Corpus(
            {names[tag]: documents for tag, documents in self._documents.items()},
            parallel=self.parallel, keys=self.keys, name=self.name,
        )  # fmt: skip

    def digest(self, language: str) -> str:
        """A digest of all text of a language, which is read for it."""
        found = hashlib.sha256()
        for document in self[language]:
            found.update(f"{len(document)} {document}".encode(errors="surrogatepass"))
        return found.hexdigest()

    def split(self, every: int = 5) -> tuple["Corpus", "Corpus"]:
        """Two disjoint corpora: all but every `every`-th document, and those held out.

        The cut is by position, so a parallel corpus holds out the same samples in every language, and a streamed one
        is cut the same way each time. A copy of an earlier document goes where that one went (see `copies.with_first`),
        or what is held out would have been recorded. Of a parallel corpus all samples stay where they are, since a
        sample may be a copy in one language only.

        Warns:
            NeuroglotWarning: samples that are held out are recorded, too, as other samples; said when they are read.
        """
        every = integer(every, "every", least=2)
        read = self._where(lambda index: index % every != every - 1, "not held out")
        held_out = self._where(lambda index: index % every == every - 1, "held out")
        if self.parallel:
            held_out._noting(lambda: self._note_copies(every))
        return read, held_out

    def half(self, which: int) -> "Corpus":
        """Every other document: those at even positions (0) or at odd ones (1). Both halves add up to the whole.

        A copy is in the half of its first.
        """
        if integer(which, "which") not in (0, 1):
            raise NeuroglotError(f"A half is 0 or 1, not {which}.")
        return self._where(lambda index: index % 2 == which, f"half {which + 1}")

    def together(self, languages: Sequence[str]) -> "Corpus":
        """The same text, and under `mul` (several languages) the documents of these, one of each in turn.

        For what is made for several languages at once, such as a smaller vocabulary. Split before.

        Raises:
            NeuroglotError: there are fewer than two languages, or one is not there.
        """
        if len({language_tag(tag) for tag in languages}) < 2:
            raise NeuroglotError("Several languages are two at least; take the documents of the one.")
        several = [self[tag] for tag in languages]
        missing = object()

        def turns() -> Iterator[str | None]:
            for some in itertools.zip_longest(*several, fillvalue=missing):
                yield from (text for text in some if text is not missing)  # type: ignore[misc]

        found = Corpus(self._documents, name=f"{self.name} ({', '.join(languages)} in turn)")
        found._documents["mul"] = Documents(turns)
        return found

    def _where(self, mine: Callable[[int], bool], what: str) -> "Corpus":
        """The documents at these positions, with their copies; of a parallel corpus the samples, of each language."""

        def reader(documents: Documents) -> Callable[[], Iterator[str | None]]:
            placed = (lambda: enumerate(documents.aligned())) if self.parallel else (lambda: with_first(documents))
            return lambda: (text for index, text in placed() if mine(index))

        return Corpus(
            {tag: Documents(reader(documents)) for tag, documents in self._documents.items()},
            parallel=self.parallel,
            keys=None if self.keys is None else [key for i, key in enumerate(self.keys) if mine(i)],
            name=f"{self.name} ({what})",
        )

    def _noting(self, note: Callable[[], None]) -> None:
        """Have something said when the text is first read."""
        said: list[bool] = []

        def reader(documents: Documents) -> Callable[[], Iterator[str | None]]:
            def read() -> Iterator[str | None]:
                if not said:
                    said.append(True)
                    note()
                return documents.aligned()

            return read

        self._documents = {tag: Documents(reader(documents)) for tag, documents in self._documents.items()}

    def _note_copies(self, every: int) -> None:
        copies, held_out, tags = copied_samples({tag: self[tag].aligned() for tag in self.languages}, every)
        if copies:
            warnings.warn(
                f"Of the {held_out:,} samples of {self.name} that are held out {copies:,} are recorded, too, since "
                f"other samples have the same text in {', '.join(tags)}; what is measured on them was seen, so take "
                "the copies out.",
                NeuroglotWarning,
                stacklevel=5,
            )


def check_is_corpus(given: Any) -> None:
    """Refuse what is no text by language, such as a path or a dictionary.

    Raises:
        NeuroglotError: as said.
    """
    if not hasattr(given, "languages") or isinstance(given, str):
        remedy = "ng.Corpus(…) makes one of it" if isinstance(given, Mapping) else "ng.load_corpus(…) opens one"
        raise NeuroglotError(f"The text is a Corpus, and not a {type(given).__name__}; {remedy}.")


def _reader(texts: Iterable[str | None], language: str) -> Callable[[], Iterator[str | None]]:
    check_texts(texts, f"The text in {language}")
    again = list(texts) if isinstance(texts, Iterator) else texts  # which ends the first time
    return lambda: iter(again)
