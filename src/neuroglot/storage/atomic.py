"""Files that are whole or absent: nothing half-written is ever readable as whole.

Everything Neuroglot writes goes through `atomic_path`: into a hidden neighbour first, then renamed into place. A
process that is killed leaves its neighbour behind; the next one that writes there removes it.
"""

import errno
import filecmp
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from neuroglot.errors import NeuroglotError
from neuroglot.storage.sealed import digest_of_bytes, unsealed_json

__all__ = ["DRAFT", "atomic_path", "check_writable", "read_json", "save_text", "writing"]

DRAFT = ".partial"  # ends the hidden name of what is being written
OLD = 7 * 24 * 3600.0  # seconds after which the draft of another machine is left for good

_UMASK = os.umask(0o077)  # it can be read by setting it alone; what is written in between is private, and no more
os.umask(_UMASK)
_MODE = 0o666 & ~_UMASK
"""What a file that this process opens may be read and written by."""

_HOST = digest_of_bytes(socket.gethostname().encode())[:6]
_OURS = re.compile(rf"\..*\.(?:([0-9a-f]{{6}})-([0-9]+)-)?[0-9a-f]{{8}}{re.escape(DRAFT)}")
_cleaned: set[tuple[int, str]] = set()


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say in one sentence why `path` cannot be written, if it cannot.

    Raises:
        NeuroglotError: the disk is full, read-only, not a directory ….
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _write_failure(error)
        if reason is None:
            raise
        raise NeuroglotError(f"{path} cannot be written: {reason}; nothing was changed there.") from error


def check_writable(path: str | Path) -> None:
    """Refuse a place that can never be written, before what it is for is computed. Nothing is made there.

    Raises:
        NeuroglotError: its name is too long, a file is where a directory should be, it is another's ….
    """
    with writing(path):
        place = Path(path)
        while not _is_there(place) and place != place.parent:
            place = place.parent
        if place != Path(path) and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except FileNotFoundError:
        return False
    return True


@contextmanager
def atomic_path(path: str | Path, replaces: str | None = None) -> Iterator[Path]:
    """Give a place to write `path` (a file or a directory) that becomes `path` only when the block ends well.

    Args:
        path: the place.
        replaces: of a directory, the file by which one is known that may be replaced. One that holds other things is
            refused; by default none is.

    Raises:
        NeuroglotError: the place cannot be written (disk full, read-only, not a directory …); `path` is then as it was.
    """
    path = Path(path)
    if replaces is not None and path.is_dir() and any(path.iterdir()) and not (path / replaces).is_file():
        raise NeuroglotError(f"{path} is a directory that holds other things; choose a new one.")
    draft = _beside(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _clean(path.parent)
            yield draft
            if draft.is_file() and path.is_file() and filecmp.cmp(draft, path, shallow=False):
                return  # it holds that already, and stays untouched: its time says when it became what it is
            written = [draft, *(draft.rglob("*") if draft.is_dir() else ())]
            _share(*written)
            _flush(*written)
            if draft.is_dir():
                _replace_directory(draft, path)
            else:
                os.replace(draft, path)
            _flush(path.parent)
    finally:
        if os.path.isdir(draft):  # where a name is too long, Path.is_dir raises
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with suppress(OSError, ValueError):
                draft.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A hidden name beside `path`, of this process."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}{DRAFT}")


def _replace_directory(draft: Path, path: Path) -> None:
    """`os.replace` for directories, which takes the place of an empty one only; another process may do so as well."""
    old = _beside(path)
    while True:
        with suppress(FileNotFoundError):  # there is none, or the other process has just taken it away
            if path.is_dir() and not path.is_symlink():
                os.rename(path, old)
        shutil.rmtree(old, ignore_errors=True)
        try:
            os.replace(draft, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else the other's came in between
                raise


def read_json(path: str | Path) -> dict[str, Any] | None:
    """What a JSON file says; None if it is missing or damaged, and the work that it would have saved is done again.

    Raises:
        NeuroglotError: it is there and cannot be read.
    """
    try:
        found, _ = unsealed_json(Path(path).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise NeuroglotError(f"{path} cannot be read: {error.strerror or error}.") from error
    return found if isinstance(found, dict) else None


def _clean(folder: Path) -> None:
    """Remove what killed processes left half-written in a directory, the first time that this one writes there."""
    if (os.getpid(), str(folder)) in _cleaned:
        return
    _cleaned.add((os.getpid(), str(folder)))
    for item in os.scandir(folder):
        found = _OURS.fullmatch(item.name)
        if found is None or not _abandoned(item, *found.groups()):
            continue
        if item.is_dir(follow_symlinks=False):
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(item.path)


def _abandoned(item: os.DirEntry[str], host: str | None, process: str | None) -> bool:
    """Whether who wrote a draft is gone: its process has ended, or, where that cannot be known, it is a week old."""
    if host == _HOST and process is not None and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # it lives, and is another user's
            return False
        return False
    try:
        return time.time() - item.stat(follow_symlinks=False).st_mtime > OLD
    except OSError:
        return False


def _share(*paths: Path) -> None:
    """Let those read a file who may read what this process writes: those of safetensors are for their owner alone."""
    for item in paths:
        mode = item.lstat().st_mode
        if stat.S_ISREG(mode) and mode & _MODE != _MODE:
            with suppress(OSError):  # some file systems have no modes
                item.chmod(mode & 0o7777 | _MODE)


def _flush(*paths: Path) -> None:
    """Have files, or the names in directories, on the disk: a power cut must not leave a name without its bytes."""
    for item in paths:
        handle = os.open(item, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems cannot sync a directory
                raise
        finally:
            os.close(handle)


def _write_failure(error: Exception) -> str | None:
    """Why a write failed, in words; None if `error` is not about writing."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)  # also: links that loop, names that are too long
    # safetensors and torch pass the system's words on inside their own exceptions
    said = str(error)
    if found := re.search(r"\(os error ([0-9]+)\)", said):
        return os.strerror(int(found[1]))
    numbers = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG)
    return next((os.strerror(number) for number in numbers if os.strerror(number) in said), None)


def save_text(path: str | Path, text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)
