"""The packed text of a recording, a shard at a time while its languages are read, by this process or by others."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

import dill
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import writing
from neuroglot.storage.digests import digest_of, shard_name
from neuroglot.tokens.packing import blocks_of
from neuroglot.tokens.shards import Reading, TextOfLanguage

__all__ = ["PackedText", "Shard", "in_part"]

POLL = 0.05  # seconds between looks at what the readers have ready


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


class PackedText:
    """The packed text of a recording, as its languages are read.

    Entering the context starts reading: in this process, at once, or in `readers` processes that read as many languages
    ahead of the model.

    Args:
        readings: the languages, in order.
        begin: the tokens before each block.
        readers: how many processes; 0 for none.

    Raises:
        NeuroglotError: what `Reading.run` raises.
    """

    def __init__(self, readings: Sequence[Reading], begin: Sequence[int], readers: int):
        self.readings = readings
        self.begin = begin
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
        """How many tokens the blocks of these shards hold, as far as it is known by now; else at most."""
        return sum(
            max(0, self._tokens(reading) - (reading.earlier.tokens if reading.earlier else 0))
            // reading.text
            * reading.block
            for reading in self.readings
        )

    def _tokens(self, reading: Reading) -> int:
        return self.read[reading.language].tokens if reading.language in self.read else reading.tokens

    def shards(self, part: tuple[int, int] = (1, 1)) -> Iterator[Shard]:
        """The shards of a part in order, each as soon as its tokens are there; none that an earlier pass recorded."""
        for place, reading in enumerate(self.readings):
            index = reading.recorded_earlier
            while (digest := self._next(reading, index)) is not None:
                if in_part(place, index, part):
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
        if digest_of(row) != digest:
            with writing(path):
                path.unlink()
            raise NeuroglotError(f"{path} was damaged and is removed; start again to go on from what is finished.")
        return blocks_of(torch.from_numpy(row), reading.text, self.begin)

    def _look(self) -> None:
        """Collect what readers have finished, and start others on what waits."""
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
                [sys.executable, "-c", "from neuroglot.tokens.shards import main; main()"],
                stdin=payload,
                stderr=said,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RAYON_NUM_THREADS": str(threads)},
            )
            self._running.append((reading, process, payload, said))


def in_part(place: int, index: int, part: tuple[int, int]) -> bool:
    """Whether a shard, the `index`-th of the `place`-th language, belongs to a part."""
    return (place + index) % part[1] == part[0] - 1
