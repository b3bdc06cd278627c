"""The methods of identification on the command line: in help texts, and their settings as options.

A method may come from another package and have settings of its own, so the settings are no options of the command but
what is left when its options are read; the registry says whose they are.
"""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from typer import Context
from typer.core import TyperCommand

from neuroglot.errors import NeuroglotError

__all__ = ["METHOD_SETTINGS", "MethodCommand", "method_settings"]

METHOD_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command that takes a method's settings."""


class MethodCommand(TyperCommand):
    """A command whose help ends with the methods there are; they are looked up only when the help is shown."""

    def format_help(self, ctx: Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the help."""
        self.epilog = _table()
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the options; what is left are a method's settings, which the method must have."""
        super().parse_args(ctx, args)
        if ctx.args:
            ctx.obj = method_settings(ctx.params["method"], ctx.args)
        return ctx.args


def method_settings(method: str, words: Sequence[str]) -> dict[str, Any]:
    """A method's settings from `--top-fraction 0.01` or `--top-fraction=0.01`.

    Raises:
        NeuroglotError: the method is unknown or has no such setting, or a value is missing or none.
    """
    from neuroglot.identify.registry import described

    known, found, rest = described(method).settings, {}, list(words)
    while rest:
        word, joined, value = rest.pop(0).partition("=")
        name = word.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            raise NeuroglotError(f"{word!r} is not expected here; an option begins with --.")
        if name not in known:
            raise NeuroglotError(f"{method} has no {word.removeprefix('--')}; leave the option out.")
        if not joined and not rest:
            raise NeuroglotError(f"{word} needs a value, such as {word} {known[name]}.")
        found[name] = _value(word, value if joined else rest.pop(0), known[name])
    return found


def _value(option: str, text: str, default: Any) -> Any:
    """The value of a setting, of the type that its default has."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(type(default)).validate_python(text)
    except ValidationError as error:
        raise NeuroglotError(f"{option} takes a value such as {default}, not {text!r}.") from error


def _table() -> str:
    """The methods, a paragraph each: what each takes first, what it needs, its settings."""
    from neuroglot.identify.registry import EVIDENCE
    from neuroglot.identify.registry import known as methods

    lines = ["Methods, and the settings they take:"]
    for found in methods():
        needs = [EVIDENCE.get(need, need) for need in found.needs if need != "seed"]
        options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in found.settings.items())
        words = f"{found.about} Needs {', '.join(needs)}." if needs else found.about
        lines.append(f"[bold]{found.name}[/bold]{escape(options)}: {escape(words)}")
    return "\n\n".join(lines)
