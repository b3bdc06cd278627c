"""One writer at a time: what is read, changed and written again is lost if two processes do so at once.

So it is with work that takes long and keeps what it has on the way: the second process waits, and finds it finished.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock

from neuroglot.storage.atomic import writing

__all__ = ["LOCK", "clear", "drop_workplace", "locked", "workplace"]

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
        lock = _acquired(directory)
    try:
        yield
    finally:
        lock.release()


def _acquired(directory: Path) -> BaseFileLock:
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.resolve() / LOCK, is_singleton=True)
        try:
            lock.acquire()
            return lock
        except FileNotFoundError:  # a workplace, and who had it was done with it
            if directory.is_symlink():  # that leads nowhere
                raise


@contextmanager
def workplace(path: Path, kind: str) -> Iterator[Path]:
    """A hidden directory beside `path` for what becomes it, one process at a time; it goes when `path` is there.

    What a process that was stopped left in it stays, for the next one to go on from, which looks first whether
    another one has finished `path` while it waited.

    Args:
        path: what is to be made.
        kind: of work, which ends the directory's name.

    Raises:
        NeuroglotError: the place cannot be written.
    """
    work = path.with_name(f".{path.name}.{kind}")
    with locked(work):
        try:
            yield work
        finally:
            if path.exists() or _is_empty(work):
                shutil.rmtree(work, ignore_errors=True)


def drop_workplace(path: Path, kind: str) -> None:
    """Remove what a process left that was stopped just after it had made `path`."""
    shutil.rmtree(path.with_name(f".{path.name}.{kind}"), ignore_errors=True)


def clear(work: Path) -> None:
    """Empty a workplace."""
    for item in work.iterdir():
        if item.name == LOCK:
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            with suppress(OSError):
                item.unlink()


def _is_empty(work: Path) -> bool:
    return all(item.name == LOCK for item in work.iterdir())
