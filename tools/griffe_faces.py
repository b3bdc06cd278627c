"""Documentation finds names where scripts call them: `neuroglot.identify.lape` is the function, not its file.

An extension of griffe, which reads the code for mkdocstrings. A package hands on what its `__init__.pyi` imports
(`src/neuroglot/faces.py`); here those names replace submodules of the same name, and count as its `__all__`.
"""

import ast
from pathlib import Path
from typing import Any

import griffe


class Faces(griffe.Extension):
    """Put the names that a package hands on in the places from which it does."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Find all homes first, since a name may take the place of the module on the way to another."""
        found = [(face, name, pkg[home]) for face, name, home in _handed_on(pkg)]
        for face, name, target in found:
            face.members[name] = griffe.Alias(name, target, parent=face)
            face.exports = [*(face.exports or []), name]


def _handed_on(package: griffe.Module) -> list[tuple[griffe.Module, str, str]]:
    """Every face, a name that it hands on, and the name's home below the package."""
    folder = Path(str(package.filepath)).parent
    found = []
    for stub in folder.rglob("__init__.pyi"):
        where = ".".join(stub.parent.relative_to(folder).parts)
        face = package[where] if where else package
        for line in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(line, ast.ImportFrom) and line.module and line.module != package.name:
                home = line.module.removeprefix(f"{package.name}.")
                found += [(face, alias.asname or alias.name, f"{home}.{alias.name}") for alias in line.names]
    return found
