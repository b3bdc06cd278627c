"""Plug-ins: what other packages offer by entry points. Names are read without importing anything of theirs."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from neuroglot.errors import NeuroglotError

__all__ = ["load_plugin", "package_of", "plugins"]


@cache
def plugins(group: str) -> tuple[EntryPoint, ...]:
    """What the installed packages offer in a group, by name and package; nothing is imported."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, package_of(entry))))


def package_of(entry: EntryPoint) -> str:
    """The package that offers it."""
    return entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]


def load_plugin(entry: EntryPoint) -> Any:
    """Import it.

    Raises:
        NeuroglotError: it cannot be imported; the sentence names the package.
    """
    try:
        return entry.load()
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise NeuroglotError(
            f"The package {package_of(entry)} offers {entry.name} and cannot be loaded ({type(error).__name__}: "
            f"{said.rstrip('.')}); update or uninstall it."
        ) from error
