"""Digests that name what was read."""

import hashlib
import re

import numpy as np

__all__ = ["SHARD_NAME", "digest_of", "shard_name"]

SHARD_NAME = re.compile(r"[A-Za-z0-9-]+-[0-9]{5,}-[0-9a-f]{16}")
"""What the name of a shard looks like."""


def shard_name(language: str, index: int, digest: str = "*") -> str:
    """What a shard's files are called; without a digest, a pattern for all that this shard ever was."""
    return f"{language}-{index:05d}-{digest}"


def digest_of(row: np.ndarray) -> str:
    """The digest of a shard's tokens, as names of files hold it."""
    return hashlib.sha256(row.tobytes()).hexdigest()[:16]
