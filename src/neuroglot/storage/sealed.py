"""Files that carry a digest of themselves, so that a flipped bit anywhere in one is noticed.

A seal is the SHA-256 of the file in which the seal's own 64 digits are zeros. It lies in the file's header (tensors),
in its last entry (JSON), or, where readers of the file would stumble over it (CSV), in a hidden file beside it.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuroglot.errors import NeuroglotWarning

__all__ = ["BLANK", "SEAL", "digest_of_bytes", "note_unsealed", "sealed_json", "unsealed_json"]

SEAL = "digest"
"""The name under which a file holds its own digest."""
BLANK = "0" * 64

_LAST_ENTRY = re.compile(rb'\n "(.{6})": "([0-9a-f]{64})"\n\}$')  # whatever it is called: the name may be damaged
_noted: set[str] = set()


def digest_of_bytes(*parts: bytes | memoryview) -> str:
    """SHA-256 of bytes that follow each other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sealed_json(value: Mapping[str, Any]) -> str:
    """A value as JSON whose last entry is the digest of all of it."""
    text = json.dumps({**value, SEAL: BLANK}, ensure_ascii=False, indent=1)
    before, _, after = text.rpartition(BLANK)
    return before + digest_of_bytes(text.encode()) + after


def unsealed_json(data: bytes) -> tuple[Any, bool]:
    """What JSON says, without its seal, and whether it had one.

    Raises:
        ValueError: it is no JSON, or its seal does not match.
    """
    value, found = json.loads(data), _LAST_ENTRY.search(data)
    if not isinstance(value, dict) or (SEAL not in value and found is None):
        return value, False
    if found is None:
        raise ValueError("it was changed after it was written")
    blank = data[: found.start(2)] + BLANK.encode() + data[found.end(2) :]
    if found[1].decode(errors="replace") != SEAL or digest_of_bytes(blank) != found[2].decode():
        raise ValueError("its checksum does not match")
    return {name: each for name, each in value.items() if name != SEAL}, True


def note_unsealed(path: Path) -> None:
    """Say, once for a kind of file, that one was written before files carried a digest of all of themselves."""
    if path.suffix not in _noted:
        _noted.add(path.suffix)
        warnings.warn(
            f"{path} was written by an earlier Neuroglot, without a digest of all of it: if it is damaged, that may "
            "not be noticed.",
            NeuroglotWarning,
            stacklevel=3,
        )
