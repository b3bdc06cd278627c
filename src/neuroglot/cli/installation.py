"""What is installed here, what it runs on, where it keeps things, and what is missing. Values; `doctor` prints them."""

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants
from packaging.requirements import Requirement

from neuroglot import __version__
from neuroglot.models.gguf import PACKAGED
from neuroglot.storage.caches import cache_directory

__all__ = ["Examination", "Extra", "examine"]

LIBRARIES = ("torch", "transformers", "datasets", "tokenizers", "safetensors", "numpy", "pandas")
NOT_SHOWN = ("dev", "docs")  # for those who work on Neuroglot


@dataclass(frozen=True)
class Extra:
    """An optional part of Neuroglot.

    Attributes:
        name: `pip install "neuroglot[name]"` gets it.
        missing: packages that are not installed, or are of another version than it needs.
    """

    name: str
    missing: tuple[str, ...]


@dataclass
class Examination:
    """What was found.

    Attributes:
        versions: what decides results → its version.
        devices: where models can run, in words.
        places: what is kept → where, and how much is there.
        weights: weights that packages bring → how to get them, or None where they are installed.
        extras: optional parts.
        broken: required packages that are missing or of the wrong version, in words.
    """

    versions: dict[str, str] = field(default_factory=dict)
    devices: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str | None] = field(default_factory=dict)
    extras: list[Extra] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def examine() -> Examination:
    """Look at this installation; nothing is changed and no model is opened."""
    found = Examination()
    found.versions = {"neuroglot": __version__, "python": platform.python_version(), "system": platform.platform()}
    found.versions |= {name: _version(name) or "not installed" for name in LIBRARIES}
    found.devices = _devices()
    found.places = {
        "converted models": _size(cache_directory()),
        "the hub's downloads": _size(Path(constants.HF_HOME)),
    }
    found.weights = {
        name: None if find_spec(weights.package) is not None else weights.install for name, weights in PACKAGED.items()
    }
    missing: dict[str, list[str]] = {}
    for requirement in map(Requirement, _requirements()):
        for extra in _extras(requirement):
            words = [] if requirement.name == "neuroglot" else _lacking(requirement)
            if extra:
                missing.setdefault(extra, []).extend(words)
            else:
                found.broken += words
    found.extras = [Extra(name, tuple(words)) for name, words in sorted(missing.items()) if name not in NOT_SHOWN]
    return found


def _requirements() -> list[str]:
    try:
        return requires("neuroglot") or []
    except PackageNotFoundError:  # run from a source tree that is not installed
        return []


def _extras(requirement: Requirement) -> list[str]:
    """The extras that ask for it; `""` for a requirement of Neuroglot itself, none for one of another system."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return [""]
    words = str(requirement.marker).replace('"', "'").split("'")
    return [name for name in words[1::2] if requirement.marker.evaluate({"extra": name})]


def _lacking(requirement: Requirement) -> list[str]:
    have = _version(requirement.name)
    if have is None:
        return [requirement.name]
    if not requirement.specifier.contains(have, prereleases=True):
        return [f"{requirement.name}{requirement.specifier} (there is {have})"]
    return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory"
    devices = [f"cpu: {os.cpu_count()} cores{memory}, {torch.get_num_threads()} threads of torch"]
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        devices.append(f"cuda:{i}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        devices.append("mps: Apple GPU")
    return devices


def _size(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (nothing yet)"
    inside = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return f"{path} ({inside / 10**9:.1f} GB)"
