"""What the name of a model stands for: a directory, an adapter, a GGUF file, packaged weights or a hub id.

Nothing here imports torch, so that a wrong name is said at once.
"""

import os
from pathlib import Path
from typing import Any, Literal

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf import PACKAGED, check_installed, converted, packaged
from neuroglot.storage.atomic import read_json
from neuroglot.storage.given import check_file

__all__ = [
    "Bos",
    "Dtype",
    "Quantize",
    "adapter_base",
    "base_of",
    "check_source",
    "is_adapter",
    "located",
    "read_config",
]

Bos = Literal["auto", "always", "never"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

NAME = 200
"""Characters of a hub id, at most."""

Quantize = Literal["8bit", "4bit"]


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds a peft adapter and no model."""
    return os.path.isfile(Path(path) / "adapter_config.json") and not os.path.isfile(Path(path) / "config.json")


def base_of(adapter: str | Path) -> str | None:
    """The model that an adapter says it was made of."""
    return read_config(Path(adapter) / "adapter_config.json").get("base_model_name_or_path") or None


def adapter_base(adapter: str | Path) -> str:
    """The model that an adapter was made of.

    Raises:
        NeuroglotError: it does not say.
    """
    base = base_of(adapter)
    if base is None:
        raise NeuroglotError(f"{adapter} is an adapter that does not name its base; merge it into that with peft.")
    return base


def read_config(path: Path, *names: str) -> dict[str, Any]:
    """A JSON file of a checkpoint, with these names in it.

    Raises:
        NeuroglotError: it is damaged.
    """
    found = read_json(path)
    if found is None or not set(names) <= set(found):
        raise NeuroglotError(f"{path} is damaged; write the checkpoint again.")
    return found


def check_source(source: str | Path) -> None:
    """Refuse a name at which no model can be; whether a hub id exists, only the hub can tell.

    Raises:
        NeuroglotError: as said.
    """
    if not isinstance(source, str | os.PathLike):
        raise NeuroglotError(f"A model is opened by its name or path, and not by {source!r:.40}.")
    name = str(source)
    if name in PACKAGED:
        check_installed(name)
    elif name.endswith(".gguf"):
        check_file(source, "give the path of a .gguf file")
    elif is_adapter(source):
        adapter_base(source)
    elif os.path.isdir(source):
        if not os.path.isfile(Path(source) / "config.json"):
            other = next((f"its file {file.name}" for file in sorted(Path(source).glob("*.gguf"))), "another directory")
            raise NeuroglotError(f"{source} holds no config.json, so it is not a Hugging Face model; give {other}.")
    elif os.path.exists(source) or len(name) > NAME or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise NeuroglotError(f"There is no model at {source}; give a directory, a .gguf file or a hub id.")


def located(source: str | Path) -> str:
    """The directory or the hub id that a source stands for; GGUF is converted first.

    Raises:
        NeuroglotError: there is no model, or its GGUF file cannot be converted.
    """
    check_source(source)
    name = str(source)
    if name in PACKAGED:
        return str(packaged(name))
    if name.endswith(".gguf"):
        return str(converted(Path(source)))
    return name
