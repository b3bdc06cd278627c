"""Caches of large files that are found damaged before they are used.

What can be made again and is opened often, a converted model or the cells of a corpus, is not hashed each time: the sum
of its 64-bit words is taken as fast as memory is read, and any flipped bit changes it. The sums lie beside it.
"""

import os
from pathlib import Path

from neuroglot.storage.atomic import read_json
from neuroglot.storage.results import save_json

__all__ = ["is_whole", "keep_sums"]

AT_ONCE = 1 << 24  # words


def keep_sums(draft: Path, path: Path) -> None:
    """Write the sums of a finished draft, a file or a directory, for the place that it is going to have."""
    save_json(_beside(path), {"sums": _sums(draft)})


def is_whole(path: Path) -> bool:
    """Whether a file or a directory is there with the bytes that it was made with.

    What an earlier version made has no sums; it is taken as it is now, and they are kept from here on.
    """
    if not path.exists():
        return False
    kept = read_json(_beside(path))
    if kept is None and not _beside(path).exists():
        keep_sums(path, path)
        return True
    return kept is not None and kept.get("sums") == _sums(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sums.json")


def _sums(path: Path) -> dict[str, list[int]]:
    """Size and sum of each file by its name in a directory; `` is the name of a file itself."""
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    return {"" if file == path else file.relative_to(path).as_posix(): _sum(file) for file in files}


def _sum(file: Path) -> list[int]:
    import numpy as np  # bad input is answered before this is needed

    size, total = os.path.getsize(file), 0
    words = size // 8
    if words:
        mapped = np.memmap(file, dtype="<u8", mode="r", shape=words)
        for start in range(0, words, AT_ONCE):
            total += int(mapped[start : start + AT_ONCE].sum(dtype=np.uint64))  # may wrap around
    with file.open("rb") as handle:
        handle.seek(words * 8)
        total += int.from_bytes(handle.read(), "little")
    return [size, total % (1 << 64)]
