"""Public faces: a package hands on names, each imported from its home the first time somebody asks for it.

The names stand in the package's `__init__.pyi`, which is also what type checkers read. Importing torch takes seconds,
which `neuroglot --help` and a mistake in the arguments should not wait for.
"""

import ast
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["hand_on"]


class _Face(ModuleType):
    """A package that knows where the names live that it hands on."""

    _homes: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        home, attribute = self._homes[name]
        if home == self.__name__:  # `from neuroglot import identify`: a package of its own
            return importlib.import_module(f"{home}.{attribute}")
        value = getattr(importlib.import_module(home), attribute)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system binds a submodule to its package; identify/lape.py must not hide the function of its name.
        if not (name in self._homes and isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}"):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        own = {*super().__dir__()} - {*self._homes}
        return sorted({*own, *_listed(self._homes)})


def _listed(homes: dict[str, tuple[str, str]]) -> list[str]:
    """The names that things have at home; those of earlier scripts are found, but not listed."""
    return sorted(name for name, (_, attribute) in homes.items() if name == attribute)


def hand_on(package: str) -> list[str]:
    """Have a package hand on what its `__init__.pyi` names; gives its `__all__`."""
    module = sys.modules[package]
    assert module.__file__ is not None
    homes: dict[str, tuple[str, str]] = {}
    for line in ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom):
            assert line.module is not None
            homes |= {alias.asname or alias.name: (line.module, alias.name) for alias in line.names}
        elif isinstance(line, ast.Assign):  # `Change = Condition`: a name of earlier scripts
            earlier, now = ast.unparse(line.targets[0]), ast.unparse(line.value)
            homes[earlier] = homes[now]
    module.__dict__["_homes"] = homes
    module.__class__ = _Face
    return _listed(homes)
