"""The methods of identification. Each is declared once, in its own file, and listed nowhere else.

A file of this package, a script or another package says `@method("lape", needs=("active",))` above the function that
scores neurons, and the command line, the comparison, the report and the explorer have the method. Help texts must come
at once and importing torch takes seconds, so the declarations of this package's files are read from their text, as the
packages' faces are (`neuroglot.faces`); a file is imported when its method is used.
"""

import ast
import importlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint
from inspect import getdoc, signature
from pathlib import Path
from typing import Any, TypeVar

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.plugins import load_plugin, package_of, plugins

__all__ = ["EVIDENCE", "GROUP", "Method", "default_choice", "described", "find", "known", "method", "names", "title"]

GROUP = "neuroglot.methods"
"""The entry points of other packages' methods: the method's name = where the function is."""
EVIDENCE = {
    "samples": "samples of a parallel corpus (`neuroglot align`)",
    "experts": "the model's partition into experts, and how often each is activated (`neuroglot experts`)",
    "tuned": "a model tuned on each language (`neuroglot tune`)",
    "seed": "a seed",
}
"""What a method can need beside statistics of the recording."""
RESERVED = ("all", "imported")  # words of the command line

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """A way of finding each language's neurons.

    Attributes:
        name: in commands, files and tables.
        title: in figures and sentences, such as «LAPE».
        about: which neurons it takes first, in one sentence.
        needs: statistics of the recording, such as `active`, and what `EVIDENCE` names.
        origin: the module that declares it.
        settings: of its default choice, by name, and what they are unless told otherwise.
        scores: what is needed → (K, L, N) scores; None until the module is imported.
        choice: what is needed, and settings → the neurons it chooses by itself; None if it only ranks.
    """

    name: str
    title: str
    about: str
    needs: tuple[str, ...]
    origin: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Callable[..., Any] | None = None
    choice: Callable[..., Any] | None = None

    @property
    def statistics(self) -> tuple[str, ...]:
        """What it needs of the recording."""
        return tuple(need for need in self.needs if need not in EVIDENCE)

    @property
    def evidence(self) -> tuple[str, ...]:
        """What it needs beside the recording. If anything, it is given the `Evidence`, else the `Recording`."""
        return tuple(need for need in self.needs if need in EVIDENCE)


# --- declaring --------------------------------------------------------------------------------------------------------


def method(name: str, *, needs: Sequence[str], title: str | None = None) -> Callable[[Function], Function]:
    """Declare a method: put it above a function that scores neurons, the first line of whose docstring says how.

    The function takes the `Recording` and gives scores (languages, layers, neurons), floating-point, the highest first,
    −∞ for a neuron that can never be chosen. If it needs more than the recording it takes the `Evidence`. It chooses as
    `select_top` does, with `top_fraction` (0.01) of all neurons for each language, unless `default_choice` says how.

    Args:
        name: lower-case letters, digits, - and _.
        needs: statistics of the recording (`active`, `activation`, `hidden` …), and of `samples`, `experts`, `tuned`,
            `seed`.
        title: how figures write it; by default the name.

    Raises:
        NeuroglotError: the name is taken or no such word, or `needs` is no list of words.
    """

    def declare(scores: Function) -> Function:
        _registered[name] = replace(_free(_described(name, needs, title, scores), scores), scores=scores)
        return scores

    return declare


def default_choice(name: str) -> Callable[[Function], Function]:
    """Declare how the method above chooses by itself: put it above a function of the same input and of settings.

    The settings are keyword-only and have defaults; the function gives a `NeuronSet`.

    Raises:
        NeuroglotError: the module declares no such method above.
    """

    def declare(choice: Function) -> Function:
        found = _registered.get(name)
        if found is None or found.origin != choice.__module__:
            raise NeuroglotError(f"{choice.__module__} declares no method {name}; put @method above its scores first.")
        own = {
            key: each.default for key, each in signature(choice).parameters.items() if each.kind == each.KEYWORD_ONLY
        }
        _registered[name] = replace(found, choice=choice, settings=own)
        return choice

    return declare


_registered: dict[str, Method] = {}  # those whose module is imported


def _described(name: str, needs: Sequence[str], title: str | None, scores: Any) -> Method:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in RESERVED:
        raise NeuroglotError(
            f"A method cannot be called {name!r}; take lower-case letters, digits, - and _, and none of "
            f"{', '.join(RESERVED)}."
        )
    if isinstance(needs, str) or not all(isinstance(need, str) for need in needs):
        raise NeuroglotError(f'What {name} needs is a list of words such as ("active",), not {needs!r}.')
    about = (getdoc(scores) or "").partition("\n")[0]
    return Method(name, title or name, about, tuple(needs), scores.__module__, _ranking_settings(needs))


def _ranking_settings(needs: Sequence[str]) -> dict[str, Any]:
    """Those of a method that only ranks."""
    return {"top_fraction": 0.01} | ({"seed": 0} if "seed" in needs else {})


def _free(new: Method, scores: Any) -> Method:
    """Refuse a name that is taken, unless by the same function, which a notebook declares again and again."""
    taken = _registered.get(new.name)
    if taken is not None:
        same = taken.origin == new.origin and getattr(taken.scores, "__qualname__", "") == scores.__qualname__
        by = None if same else taken.origin
    elif new.origin.startswith(f"{__package__}."):
        by = None
    elif new.name in _declared():
        by = _declared()[new.name].origin
    else:
        entry = _offered().get(new.name)
        by = None if entry is None or entry.module.split(".")[0] == new.origin.split(".")[0] else package_of(entry)
    if by is not None:
        raise NeuroglotError(f"There is a method {new.name} already, of {by}; give yours another name.")
    return new


# --- finding ----------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """All methods, without importing any: those of any recording, those that need more, then others' in their order."""
    return [*dict.fromkeys([*_declared(), *_registered, *_offered()])]


def find(name: str) -> Method:
    """A method, imported.

    Raises:
        NeuroglotError: there is none of this name, or its package is broken.
    """
    if name not in _registered:
        if name in _declared():
            importlib.import_module(_declared()[name].origin)
        elif (entry := _offered().get(name)) is not None:
            load_plugin(entry)
            if name not in _registered:
                raise NeuroglotError(
                    f"The package {package_of(entry)} offers a method {name} and does not declare it; its author "
                    f'should put @neuroglot.identify.method("{name}", …) above {entry.value}.'
                )
        else:
            raise NeuroglotError(f"{name} is not a method; choose among {', '.join(names())}.")
    return _registered[name]


def described(name: str) -> Method:
    """What a method says of itself, without its functions: only another package's has to be imported for that.

    Raises:
        NeuroglotError: see `find`.
    """
    return _registered.get(name) or _declared().get(name) or find(name)


def known() -> list[Method]:
    """What each method says of itself. Only other packages' are imported; broken ones are left out, and said so."""
    found = []
    for name in names():
        try:
            found.append(described(name))
        except NeuroglotError as error:
            warnings.warn(str(error), NeuroglotWarning, stacklevel=2)
    return found


def title(name: str) -> str:
    """How figures and sentences write a method, or a word after one (`pv parameters`); unknown ones as they are."""
    first, *rest = name.split(" ", 1)
    try:
        return " ".join([described(first).title, *rest])
    except NeuroglotError:  # of an old run, or someone else's neurons
        return name


def _offered() -> dict[str, EntryPoint]:
    """Other packages' methods that are not imported yet. A name that is taken is left out, and said so."""
    found: dict[str, EntryPoint] = {}
    for entry in plugins(GROUP):
        if entry.name in _declared() or entry.name in found:
            warnings.warn(
                f"The package {package_of(entry)} offers a method {entry.name}, a name that is taken; it is left out.",
                NeuroglotWarning,
                stacklevel=2,
            )
        else:
            found[entry.name] = entry
    return found


@cache
def _declared() -> dict[str, Method]:
    """This package's methods, as the text of its files declares them; nothing is imported."""
    found: dict[str, Method] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "\n@method(" not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    _read(decorator, node, f"{__package__}.{file.stem}", found)
    return dict(sorted(found.items(), key=lambda item: ("seed" in item[1].needs, len(item[1].evidence), item[0])))


def _read(decorator: ast.expr, node: ast.FunctionDef, module: str, found: dict[str, Method]) -> None:
    """One declaration: the arguments of a decorator, which are literals, and the function below it."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name)):
        return
    if decorator.func.id == "method":
        (name,) = map(ast.literal_eval, decorator.args)
        said = {each.arg: ast.literal_eval(each.value) for each in decorator.keywords}
        about = (ast.get_docstring(node) or "").partition("\n")[0]
        settings = _ranking_settings(said["needs"])
        found[name] = Method(name, said.get("title") or name, about, tuple(said["needs"]), module, settings)
    elif decorator.func.id == "default_choice":
        (name,) = map(ast.literal_eval, decorator.args)
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        own = {argument.arg: ast.literal_eval(value) for argument, value in pairs if value is not None}
        found[name] = replace(found[name], settings=own)
