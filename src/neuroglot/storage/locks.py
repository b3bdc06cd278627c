"""One writer at a time: what is read, changed and written again is lost if two processes do so at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from neuroglot.storage.atomic import writing

__all__ = ["LOCK", "locked"]

LOCK = ".lock"  # the name of the file in the directory; it stays, and is empty


@contextmanager
def locked(directory: str | Path) -> Iterator[None]:
    """Keep other processes from changing what `directory` holds, as long as the block runs; made if it is not there.

    Read inside the block what is to be changed. Blocks of one thread may be nested.

    Raises:
        NeuroglotError: the directory cannot be written.
    """
    directory = Path(directory)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.resolve() / LOCK, is_singleton=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
