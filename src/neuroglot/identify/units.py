"""What a method's sets are of: a method of heads is called after it, `lape heads`."""

from typing import Literal

__all__ = ["Units", "of_units", "units_of"]

Units = Literal["neurons", "heads"]


def of_units(method: str, units: Units) -> str:
    """What a method is called when it finds these units, in files, tables and figures."""
    return method if units == "neurons" else f"{method} {units}"


def units_of(method: str) -> Units:
    """The units of a method that is called so."""
    return "heads" if method.endswith(" heads") else "neurons"
