"""Types and shapes of every call of the package, checked as the tests run."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_type_hints

import jaxtyping
import typer
from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeCallHintForwardRefException, BeartypeDecorHintException

CONFIGURATION = BeartypeConf(is_pep484_tower=True)  # an int is a float, as for mypy
LEFT_OUT = (
    "neuroglot.recording.statistics.kernels",  # Triton compiles functions as they are written
    "neuroglot.generation.kernels",
    "neuroglot.explorer.tabs",  # gradio asks whether a function is a generator, and a checked one looks like none
)


def install() -> None:
    """Check what is imported from here on."""
    finder = jaxtyping.install_import_hook("neuroglot", "shapes.checked").hook
    in_package = finder.should_instrument
    finder.should_instrument = lambda module: not module.startswith(LEFT_OUT) and in_package(module)


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Nothing is checked: for what a test hands over wrong on purpose, or as a stand-in. Also a decorator."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def checked(function: Any) -> Any:
    """beartype, put in place by the first call: only then do annotations resolve that are said in quotes."""
    checking = None

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checking
        if checking is None:
            function.__annotations__ = checkable(function)
            checking = beartype(conf=CONFIGURATION)(function)
        with contextlib.suppress(BeartypeCallHintForwardRefException):  # in a third party's type
            checking(*arguments, **named)

    return call


def checkable(function: Any) -> dict[str, Any]:
    """Its annotations, without names that only a type checker imports and protocols that only it can check."""
    names = vars(sys.modules[function.__module__])
    hints = {}
    for name, said in function.__annotations__.items():
        with contextlib.suppress(NameError, BeartypeCallHintForwardRefException, BeartypeDecorHintException):
            hint = get_type_hints(SimpleNamespace(__annotations__={name: said}), names, include_extras=True)[name]
            is_bearable(None, hint, conf=CONFIGURATION)
            if hint is not typer.Context:  # what it hands over is not of this class of its own
                hints[name] = hint
    return hints
