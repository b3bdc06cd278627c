"""What Neuroglot says when it cannot go on."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # which takes a sixth of a second, and --help should not
    from pydantic import BaseModel

__all__ = ["NeuroglotError", "NeuroglotWarning", "first_line", "require", "validated"]

S = TypeVar("S", bound="BaseModel")


class NeuroglotError(ValueError):
    """Bad input, in one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with status 2.
    """


class NeuroglotWarning(UserWarning):
    """Something worth knowing about a result that is still valid, such as a method that found nothing."""


def first_line(error: BaseException) -> str:
    """What somebody else's error says, to stand in a sentence of ours: one line, without its full stop.

    A first line that ends with a colon is a heading, and the next one says what is wrong.
    """
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 1 + lines[0].endswith(":")]).rstrip(".")


def validated(kind: type[S], values: Mapping[str, Any], named: Callable[[str], str] = str) -> S:
    """Settings made of values.

    Args:
        kind: of settings.
        values: by field.
        named: what the user calls a field; its own name by default.

    Raises:
        NeuroglotError: one sentence on the first value that is wrong.
    """
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
        name = named(str(first["loc"][0])) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            sentence = f"{name} is none of the arguments {', '.join(map(named, kind.model_fields))}."
        elif first["type"] == "missing":
            sentence = f"{name} is missing."
        else:
            sentence = f"{name} {reason}, not {first['input']!r}.".lstrip()
        raise NeuroglotError(sentence) from error


def require(package: str, extra: str, *, needed_by: str = "This") -> ModuleType:
    """Import an optional package, or a module of one.

    Args:
        package: what is imported, such as `peft` or `lm_eval.tasks`.
        extra: the extra of Neuroglot that installs it.
        needed_by: what needs it, the first words of the sentence.

    Raises:
        NeuroglotError: it cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise NeuroglotError(f'{needed_by} needs {name} ({error}): pip install "neuroglot[{extra}]".') from error
