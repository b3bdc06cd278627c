"""The files that a GGUF model is split into, told by their names alone."""

import re
from pathlib import Path

from neuroglot.errors import NeuroglotError

__all__ = ["parts_of"]

SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def parts_of(path: Path) -> list[Path]:
    """The files of a model, in order: the file itself, or, if it is the first of a split one, all of them.

    Raises:
        NeuroglotError: it is another than the first, or one is missing.
    """
    found = SPLIT.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found["count"])
    parts = [path.with_name(f"{found['stem']}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    if not parts or int(found["number"]) != 1:
        raise NeuroglotError(f"{path} is a part of a split file; give the first, {found['stem']}-00001-of-….gguf.")
    for part in parts:
        if not part.is_file():
            raise NeuroglotError(f"{path} is split into {count} files and {part.name} is missing; put it beside it.")
    return parts
