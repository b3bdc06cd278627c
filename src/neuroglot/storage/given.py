"""What somebody gives a function, a path to be read or a number: what is wrong is said, and what belongs there."""

import functools
import inspect
import math
import operator
import os
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from neuroglot.errors import NeuroglotError

__all__ = ["check_file", "integer", "real", "takes_numbers"]

F = TypeVar("F", bound=Callable[..., Any])


def integer(given: Any, name: str, least: int | None = None) -> int:
    """A whole number, such as 4, 4.0 or one of numpy's; a script computes many a setting, and gets a float.

    Args:
        given: the number.
        name: of the setting, the beginning of the sentence.
        least: which it may not fall below.

    Raises:
        NeuroglotError: it is none, or too small.
    """
    number: int | None = None
    if type(given).__name__ not in ("bool", "bool_"):  # numpy's, too, whose name depends on its version
        try:
            number = operator.index(given)
        except TypeError:
            if not isinstance(given, str | bytes) and hasattr(given, "__float__"):
                try:
                    number = int(float(given)) if float(given).is_integer() else None
                except (TypeError, ValueError):  # an array, a tensor
                    number = None
    if number is None or (least is not None and number < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise NeuroglotError(f"{name} must be {wanted}, not {given!r:.40}.")
    return number


def real(given: Any, name: str) -> float:
    """A number, as Python has it; arguments and errors are as of `integer`."""
    if type(given).__name__ not in ("bool", "bool_") and not isinstance(given, str | bytes):
        try:
            number = float(given)
        except (TypeError, ValueError):  # no number, an array
            number = math.nan
        if not math.isnan(number):
            return number
    raise NeuroglotError(f"{name} must be a number, not {given!r:.40}.")


def takes_numbers(function: F) -> F:
    """Have a function take whatever is a number where its signature says `int` or `float`, and refuse what is none.

    Scripts compute settings: `len(rows) / 6` is a float, `table.max()` one of numpy's, and what a notebook's form or a
    command line hands over is text. A whole number may come as a float, such as 4.0, and is negative of a seed only.
    Where a signature takes both kinds, which then mean different things, or something else besides, that is left as it
    is.
    """
    kinds: dict[str, type] = {}
    others: dict[str, tuple[type, ...]] = {}
    for name, said in function.__annotations__.items():
        kind: Any = get_origin(said)
        parts = get_args(said) if kind is Union or kind is UnionType else (said,)
        plain = all(isinstance(part, type) and get_origin(part) is None for part in parts)
        if name != "return" and plain and (int in parts) != (float in parts):
            kinds[name] = int if int in parts else float
            others[name] = tuple(part for part in parts if part not in (int, float))
    places = list(inspect.signature(function).parameters)

    def number(name: str, given: Any) -> Any:
        if name not in kinds or isinstance(given, others[name]):
            return given
        return real(given, name) if kinds[name] is float else integer(given, name, None if name == "seed" else 0)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        return function(
            *(number(name, each) for name, each in zip(places, given, strict=False)), *given[len(places) :],
            **{name: number(name, each) for name, each in named.items()},
        )  # fmt: skip

    return cast(F, call)


def check_file(path: str | Path, remedy: str) -> None:
    """Refuse a path at which no file is.

    Args:
        path: of a file that is to be read.
        remedy: what to give, the end of the sentence.

    Raises:
        NeuroglotError: it is a directory, a link to nothing, no ordinary file, or is not there.
    """
    if os.path.isfile(path):  # Path.is_file raises where a name is too long
        return
    if os.path.isdir(path):
        wrong = "is a directory"
    elif os.path.exists(path):
        wrong = "is no ordinary file"
    else:
        wrong = "is a link to nothing" if os.path.islink(path) else "does not exist"
    raise NeuroglotError(f"{path} {wrong}; {remedy}.")
