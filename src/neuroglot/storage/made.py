"""What a directory was made from, so that the same command, stopped at its very end, finds its own finished result."""

import os
from pathlib import Path

from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import read_json
from neuroglot.storage.results import save_json

__all__ = ["check_place", "is_made", "sign"]

SIGNED = "neuroglot.json"


def sign(directory: Path, made_from: str) -> None:
    """Keep in a directory a digest of what it was made from."""
    save_json(directory / SIGNED, {"made_from": made_from})


def check_place(path: Path, what: str) -> None:
    """Refuse a place that is taken, before anything is computed; what was made there is left for `is_made` to know.

    Raises:
        NeuroglotError: something is there that nothing signed.
    """
    if os.path.lexists(path) and read_json(path / SIGNED) is None:
        raise NeuroglotError(f"{path} exists; choose a new directory for the {what}.")


def is_made(path: Path, made_from: str, what: str) -> bool:
    """Whether a directory is there that was made from just this.

    Args:
        path: the directory.
        made_from: the digest of what it is made from.
        what: it is called in the sentence, such as `baked model`.

    Raises:
        NeuroglotError: something else is there.
    """
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_dir() and (read_json(path / SIGNED) or {}).get("made_from") == made_from:
        return True
    raise NeuroglotError(f"{path} exists; choose a new directory for the {what}.")
