"""Where what can be made again is kept between commands."""

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["cache_directory"]


def cache_directory() -> Path:
    """The directory that `NEUROGLOT_CACHE` names, or the user's own for caches."""
    named = os.environ.get("NEUROGLOT_CACHE")
    return Path(named) if named else user_cache_path("neuroglot", appauthor=False)
