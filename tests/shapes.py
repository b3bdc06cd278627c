"""Types and shapes of the package's functions, checked as the tests run.

A check costs more than many a call. So of each function the first calls in a file of tests are checked, and then every
so many.
"""

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from types import CodeType, SimpleNamespace
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
FIRST = 3
"""Calls of a function in a file of tests that are all checked."""
EVERY = 64
"""Of the later ones, one in so many."""
every_call = jaxtyping.jaxtyped
_calls: Counter[CodeType] = Counter()


def install() -> None:
    """Check what is imported from here on."""
    jaxtyping.jaxtyped = some_calls
    finder = jaxtyping.install_import_hook("neuroglot", "shapes.checked").hook
    in_package = finder.should_instrument
    finder.should_instrument = lambda module: not module.startswith(LEFT_OUT) and in_package(module)


def begin() -> None:
    """Another file of tests begins."""
    _calls.clear()


def some_calls(*, typechecker: Any) -> Any:
    """What jaxtyping decorates functions and classes with, but not every call is checked."""

    def decorate(thing: Any) -> Any:
        if inspect.isclass(thing):
            if dataclasses.is_dataclass(thing):
                thing.__init__ = sampled(thing.__init__)  # type: ignore[misc]
            return thing
        return sampled(thing)

    def sampled(function: Any) -> Any:
        if isinstance(function, classmethod | staticmethod):
            return type(function)(sampled(function.__func__))
        if isinstance(function, property):
            return property(*(each and sampled(each) for each in (function.fget, function.fset, function.fdel)))
        if not inspect.isfunction(function):  # the initialiser that a dataclass of an extension type has
            return every_call(function, typechecker=typechecker)
        code, checking = function.__code__, None

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal checking
            _calls[code] += 1
            if _calls[code] > FIRST and _calls[code] % EVERY:
                return function(*arguments, **named)
            if checking is None:
                checking = every_call(function, typechecker=typechecker)
            return checking(*arguments, **named)

        return call

    return decorate


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
