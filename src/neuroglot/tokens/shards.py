"""Documents into the tokens of shards, on disk; what a process that only reads text needs, and so without torch.

A language is cut into *shards*, each a fixed number of full blocks in the order of its documents. A shard's tokens are
a file whose name holds their digest, and what is recorded from them carries it on, so that a changed text can never be
taken for the same. `LANGUAGE.json` says what was read, with a digest of the documents: to check that a text is still
the same, they are read again but not tokenised.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import dill
import numpy as np
from filelock import FileLock
from pydantic import BaseModel, Field, ValidationError

from neuroglot.errors import NeuroglotError
from neuroglot.models.tokenization import PIECE, check_vocabulary, encode, pieces
from neuroglot.storage.atomic import atomic_path, read_json, writing
from neuroglot.storage.digests import digest_of, shard_name
from neuroglot.storage.results import save_json

__all__ = ["Reading", "TextOfLanguage", "token_rows", "too_short"]

DOCUMENTS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 1 << 20
CHANGED = "the text in {} is not what was recorded here before; choose another directory, or delete this one."


def token_rows(tokenizer: Any, documents: Iterable[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """The documents a few at a time, with their tokens: a line break after each, one int32 row, no special tokens.

    What is tokenised at once is bounded, whatever the documents' length (see `pieces`). A long document's first piece
    comes with the document, and its other pieces with none.
    """
    for batch in _batches(documents):
        said = batch
        for some in _bounded(piece for document in batch for piece in pieces(document, end="\n")):
            ids = encode(tokenizer, some)
            yield said, np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(map(len, ids)))
            said = []


def _bounded(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts together, as long as they have no more characters than one piece may."""
    some: list[str] = []
    length = 0
    for text in texts:
        if some and length + len(text) > PIECE:
            yield some
            some, length = [], 0
        some.append(text)
        length += len(text)
    if some:
        yield some


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Some hundred documents at a time, fewer of long ones, so that they never fill the memory."""
    batch: list[str] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += len(document)
        if len(batch) == DOCUMENTS_AT_ONCE or length >= CHARACTERS_AT_ONCE:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def too_short(language: str, count: int, tokens: int, block: int) -> NeuroglotError:
    """What to say of a language that does not fill one block."""
    return NeuroglotError(
        f"{language} has {count} tokens (at most {tokens} were asked for), too few for one block of {block}; "
        "add text, ask for more, or use a smaller block."
        + ("" if count else " Copies of what is recorded are not held out.")
    )


class TextOfLanguage(BaseModel):
    """What was read of one language: `LANGUAGE.json`."""

    documents: int
    """How many documents were read."""
    ended: bool
    """Whether they were all that there are."""
    text: str
    """The digest of these documents."""
    tokens: int
    """How many tokens of them were kept, BOS and what is left over at the end not among them."""
    shards: list[Annotated[str, Field(pattern="^[0-9a-f]{16}$")]]
    """The digest of each shard's tokens, in order."""


@dataclass(frozen=True)
class Reading:
    """How one language is read and cut into shards; a process of its own can do it."""

    directory: Path
    """Where shards' tokens and `LANGUAGE.json` go."""
    language: str
    documents: Iterable[str]
    tokenizer: Any
    vocabulary: int
    """Tokens that the model knows."""
    model: str
    """The model's name."""
    tokens: int
    """At most so many are read."""
    block: int
    """Tokens a block, with BOS."""
    text: int
    """Tokens a block, without BOS."""
    blocks: int
    """Blocks a shard."""
    only: int | None = None
    """Write the tokens of so many new shards only, and the digests of all; by default of all."""
    earlier: TextOfLanguage | None = None
    """What a finished pass over fewer tokens has recorded; the text after it is cut into shards whose numbers go on."""

    @property
    def path(self) -> Path:
        """Of what says what was read."""
        return self.directory / f"{self.language}.json"

    def known(self) -> TextOfLanguage | None:
        """What was read before, if that was finished."""
        try:
            return TextOfLanguage.model_validate(read_json(self.path))
        except ValidationError:  # not there, or damaged: read again
            return None

    @property
    def recorded_earlier(self) -> int:
        """How many shards an earlier pass recorded."""
        return 0 if self.earlier is None else len(self.earlier.shards)

    def recorded(self, index: int) -> list[str]:
        """The digests with which a shard was recorded: none or one, unless the text changed."""
        if self.earlier is not None and index < self.recorded_earlier:
            return [self.earlier.shards[index]]
        found = (self.directory.parent / "shards").glob(shard_name(self.language, index) + ".safetensors")
        return [path.stem.rsplit("-", 1)[1] for path in found]

    def tokens_path(self, index: int, digest: str) -> Path:
        """Where a shard's tokens are."""
        return self.directory / f"{shard_name(self.language, index, digest)}.i32"

    def ready(self, known: TextOfLanguage) -> bool:
        """Whether every shard is either recorded or has its tokens here."""
        if (self.directory.parent / "recording.safetensors").is_file():
            return True
        return all(
            digest in self.recorded(index) or self.tokens_path(index, digest).is_file()
            for index, digest in enumerate(known.shards)
        )

    def run(self) -> TextOfLanguage:
        """Read the language, or check that it is still what was read before.

        Processes that share a directory read a language once: the others wait, and then check.

        Raises:
            NeuroglotError: it is too short, is not what was read before, or has tokens that the model does not know.
        """
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.directory / f".{self.language}.lock")
            lock.acquire()
        try:
            known = self.known()
            if known is not None and (self.only is not None or self.ready(known)):
                if not self._same(known):
                    raise self._changed()
                return known
            made = self._tokenize()
            if known not in (None, made):
                raise self._changed()
            save_json(self.path, made.model_dump())
            return made
        finally:
            lock.release()

    def _same(self, known: TextOfLanguage) -> bool:
        digest, count = hashlib.sha256(), 0
        for document in self.documents:
            if count == known.documents:
                return not known.ended and digest.hexdigest() == known.text
            _update(digest, document)
            count += 1
        return count == known.documents and digest.hexdigest() == known.text

    def _tokenize(self) -> TextOfLanguage:
        digest, documents, count, ended = hashlib.sha256(), 0, 0, True
        earlier = self.earlier
        first = 0 if earlier is None else earlier.tokens  # before it, everything is recorded
        size = self.blocks * self.text
        due = size - first % size  # a shard ends where it would if all were read at once
        kept: list[np.ndarray] = []
        waiting = 0
        shards: list[str] = [] if earlier is None else [*earlier.shards]
        parent = os.getppid()
        for texts, row in token_rows(self.tokenizer, self.documents):
            for document in texts:
                _update(digest, document)
                documents += 1
                self._check_earlier(documents, digest)
            check_vocabulary(row, self.vocabulary, self.model)
            row = row[: self.tokens - count]
            count += len(row)
            kept.append(row[max(0, first - count + len(row)) :])
            waiting += len(kept[-1])
            if waiting >= due and (earlier is None or documents >= earlier.documents):
                held = np.concatenate(kept)
                while len(held) >= due:
                    shards.append(self._write(len(shards), held[:due]))
                    held, due = held[due:], size
                kept, waiting = [held.copy()], len(held)
            if count == self.tokens:
                ended = False
                break
            if os.getppid() != parent:
                raise SystemExit  # who asked for it is gone
        if earlier is not None and documents < earlier.documents:
            raise self._changed()
        if waiting >= self.text:
            shards.append(self._write(len(shards), np.concatenate(kept)[: waiting // self.text * self.text]))
        if not shards:
            raise too_short(self.language, count, self.tokens, self.block)
        return TextOfLanguage(
            documents=documents,
            ended=ended,
            text=digest.hexdigest(),
            tokens=count // self.text * self.text,
            shards=shards,
        )

    def _check_earlier(self, documents: int, digest: Any) -> None:
        """Refuse a text that does not begin with what an earlier pass recorded."""
        earlier = self.earlier
        if earlier is None or documents < earlier.documents:
            return
        same = earlier.text == digest.hexdigest() if documents == earlier.documents else not earlier.ended
        if not same:
            raise self._changed()

    def _changed(self) -> NeuroglotError:
        return NeuroglotError(f"{self.directory.parent}: " + CHANGED.format(self.language))

    def _write(self, index: int, row: np.ndarray) -> str:
        digest = digest_of(row)
        recorded = self.recorded(index)
        waiting = [
            path.stem.rsplit("-", 1)[1] for path in self.directory.glob(shard_name(self.language, index) + ".i32")
        ]
        if {*recorded, *waiting} - {digest}:  # left by an earlier run: the model may have begun on it by now
            raise self._changed()
        path = self.tokens_path(index, digest)
        if not recorded and not path.is_file() and (self.only is None or index < self.recorded_earlier + self.only):
            with atomic_path(path) as draft:
                draft.write_bytes(row.tobytes())
        return digest


def main() -> None:
    """Do the reading that comes on the standard input: what a reader process runs."""
    import warnings

    warnings.simplefilter("ignore")
    reading: Reading = dill.load(sys.stdin.buffer)
    try:
        reading.run()
    except NeuroglotError as error:
        sys.stderr.write(str(error))
        sys.exit(2)


def _update(digest: Any, document: str) -> None:
    """Count a document in, a part of it at a time: in UTF-8 it may be as long again."""

    def parts() -> Iterator[bytes]:
        for start in range(0, len(document), PIECE):
            yield document[start : start + PIECE].encode("utf-8", "surrogatepass")

    digest.update(sum(map(len, parts())).to_bytes(8, "little"))
    for part in parts():
        digest.update(part)
