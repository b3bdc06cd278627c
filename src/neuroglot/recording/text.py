"""The packed text of a recording on disk: read and tokenised once, ahead of the model, and taken a shard at a time.

A language is cut into *shards*, each a fixed number of full blocks in the order of its documents. A shard's tokens are
a file whose name holds their digest, and what is recorded from them carries it on, so that a changed text can never be
taken for the same. `LANGUAGE.json` says what was read, with a digest of the documents: to check that a text is still
the same, they are read again but not tokenised.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any

import dill
import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Int
from pydantic import BaseModel, ValidationError
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.files import save_text, whole, writing
from neuroglot.packing import check_vocabulary, token_rows, too_short, with_bos

__all__ = ["PackedText", "Reading", "Shard", "TextOfLanguage"]

POLL = 0.05  # seconds between looks at what the readers have ready
CHANGED = "the text in {} is not what was recorded here before; choose another directory, or delete this one."


@dataclass(frozen=True)
class Shard:
    """A fixed piece of the packed corpus: some blocks of one language."""

    language: str
    index: int
    digest: str
    blocks: Int[Tensor, "blocks block"]

    @property
    def name(self) -> str:
        """What its files are called."""
        return shard_name(self.language, self.index, self.digest)


def shard_name(language: str, index: int, digest: str = "*") -> str:
    """What a shard's files are called; without a digest, a pattern for all that this shard ever was."""
    return f"{language}-{index:05d}-{digest}"


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
    shards: list[str]
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
    """Write the tokens of so many shards only, and the digests of all; by default of all."""

    @property
    def path(self) -> Path:
        """Of what says what was read."""
        return self.directory / f"{self.language}.json"

    def known(self) -> TextOfLanguage | None:
        """What was read before, if that was finished."""
        try:
            return TextOfLanguage.model_validate_json(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            return None

    def recorded(self, index: int) -> list[str]:
        """The digests with which a shard was recorded: none or one, unless the text changed."""
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
                    raise NeuroglotError(f"{self.directory.parent}: " + CHANGED.format(self.language))
                return known
            made = self._tokenize()
            if known not in (None, made):
                raise NeuroglotError(f"{self.directory.parent}: " + CHANGED.format(self.language))
            save_text(self.path, made.model_dump_json(indent=1))
            return made
        finally:
            lock.release()

    def _same(self, known: TextOfLanguage) -> bool:
        digest, count = hashlib.sha256(), 0
        for document in self.documents:
            if count == known.documents:
                return not known.ended and digest.hexdigest() == known.text
            _take_in(digest, document)
            count += 1
        return count == known.documents and digest.hexdigest() == known.text

    def _tokenize(self) -> TextOfLanguage:
        digest, documents, count, ended = hashlib.sha256(), 0, 0, True
        size = self.blocks * self.text
        kept: list[np.ndarray] = []
        waiting = 0
        shards: list[str] = []
        parent = os.getppid()
        for texts, row in token_rows(self.tokenizer, self.documents):
            for document in texts:
                _take_in(digest, document)
            documents += len(texts)
            check_vocabulary(row, self.vocabulary, self.model)
            row = row[: self.tokens - count]
            count += len(row)
            kept.append(row)
            waiting += len(row)
            if waiting >= size:
                held = np.concatenate(kept)
                for start in range(0, waiting // size * size, size):
                    shards.append(self._write(len(shards), held[start : start + size]))
                kept = [held[waiting // size * size :].copy()]
                waiting = len(kept[0])
            if count == self.tokens:
                ended = False
                break
            if os.getppid() != parent:
                raise SystemExit  # who asked for it is gone
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

    def _write(self, index: int, row: np.ndarray) -> str:
        digest = _digest(row)
        before = self.recorded(index)
        if before and digest not in before:
            raise NeuroglotError(f"{self.directory.parent}: " + CHANGED.format(self.language))
        path = self.tokens_path(index, digest)
        if not before and not path.is_file() and (self.only is None or index < self.only):
            with whole(path) as draft:
                draft.write_bytes(row.tobytes())
        return digest


class PackedText:
    """The packed text of a recording, as its languages are read.

    Entering the context starts reading: in this process, at once, or in `readers` processes that read as many languages
    ahead of the model.

    Args:
        readings: the languages, in order.
        bos: the token before each block, if there is one.
        readers: how many processes; 0 for none.

    Raises:
        NeuroglotError: what `Reading.run` raises.
    """

    def __init__(self, readings: Sequence[Reading], bos: int | None, readers: int):
        self.readings = readings
        self.bos = bos
        self.read: dict[str, TextOfLanguage] = {}
        self._limit = readers
        self._waiting = list(readings)
        self._running: list[tuple[Reading, subprocess.Popen[bytes], IO[bytes], IO[bytes]]] = []

    def __enter__(self) -> "PackedText":
        if not self._limit:
            for reading in self.readings:
                self.read[reading.language] = reading.run()
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process, *files in self._running:
            process.kill()
            process.wait()
            for file in files:
                file.close()
        self._running = []

    def wait(self) -> dict[str, TextOfLanguage]:
        """What was read, by language, once all of it is."""
        while len(self.read) < len(self.readings):
            self._look()
            time.sleep(POLL)
        return self.read

    @property
    def total(self) -> int:
        """How many tokens all blocks hold, as far as it is known by now; else at most."""
        return sum(
            (self.read[reading.language].tokens if reading.language in self.read else reading.tokens)
            // reading.text
            * reading.block
            for reading in self.readings
        )

    def shards(self, part: tuple[int, int] = (1, 1)) -> Iterator[Shard]:
        """The shards of a part in order, each as soon as its tokens are there."""
        for place, reading in enumerate(self.readings):
            index = 0
            while (digest := self._next(reading, index)) is not None:
                if mine(place, index, part):
                    yield Shard(reading.language, index, digest, self._blocks(reading, index, digest))
                index += 1

    def _next(self, reading: Reading, index: int) -> str | None:
        """The digest of a shard once it is known; None if the language has no such shard."""
        while True:
            self._look()
            known = self.read.get(reading.language)
            if known is not None:
                return known.shards[index] if index < len(known.shards) else None
            if found := reading.recorded(index):
                return found[0]
            tokens = reading.directory.glob(shard_name(reading.language, index) + ".i32")
            if found := [path.stem.rsplit("-", 1)[1] for path in tokens]:
                return found[0]
            time.sleep(POLL)

    def _blocks(self, reading: Reading, index: int, digest: str) -> Tensor:
        """The tokens of a shard; none if it is recorded already, so that its tokens are gone."""
        path = reading.tokens_path(index, digest)
        if not path.is_file():
            return torch.empty(0, reading.block, dtype=torch.int32)
        row = np.fromfile(path, dtype=np.int32)
        if _digest(row) != digest:
            with writing(path):
                path.unlink()
            raise NeuroglotError(f"{path} was damaged and is removed; start again to go on from what is finished.")
        return with_bos(torch.from_numpy(row), reading.text, self.bos)

    def _look(self) -> None:
        """Take what readers have finished, and start others on what waits."""
        if not self._limit:
            return
        for item in list(self._running):
            reading, process, payload, said = item
            if process.poll() is None:
                continue
            self._running.remove(item)
            payload.close()
            said.seek(0)
            words = said.read().decode(errors="replace").strip()
            said.close()
            known = reading.known()
            if process.returncode == 2:
                raise NeuroglotError(words)
            if process.returncode or known is None:
                reason = words.splitlines()[-1] if words else f"it ended with {process.returncode}"
                raise NeuroglotError(
                    f"The process that reads {reading.language} failed ({reason}); start again to go on."
                )
            self.read[reading.language] = known
        while self._waiting and len(self._running) < self._limit:
            reading = self._waiting.pop(0)
            payload, said = TemporaryFile(), TemporaryFile()  # noqa: SIM115 (they live as long as the process)
            dill.dump(reading, payload)
            payload.seek(0)
            # Not multiprocessing, which would run the caller's script again unless it is guarded against that.
            threads = max(1, (os.cpu_count() or 1) // (2 * self._limit))
            process = subprocess.Popen(
                [sys.executable, "-c", "from neuroglot.recording.text import main; main()"],
                stdin=payload,
                stderr=said,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAYON_NUM_THREADS": str(threads)},
            )
            self._running.append((reading, process, payload, said))


def mine(place: int, index: int, part: tuple[int, int]) -> bool:
    """Whether a shard, the `index`-th of the `place`-th language, belongs to a part."""
    return (place + index) % part[1] == part[0] - 1


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


def _take_in(digest: Any, document: str) -> None:
    text = document.encode("utf-8", "surrogatepass")
    digest.update(len(text).to_bytes(8, "little"))
    digest.update(text)


def _digest(row: np.ndarray) -> str:
    return hashlib.sha256(row.tobytes()).hexdigest()[:16]
