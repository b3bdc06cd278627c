"""The methods of identification on the command line: in help texts, and their settings as options."""

from typing import Any

from rich.markup import escape

from neuroglot.cli.app import OneCommand
from neuroglot.errors import NeuroglotError

__all__ = ["IdentifyCommand", "MethodCommand"]


class MethodCommand(OneCommand):
    """A command whose help ends with the methods there are; they are looked up only when the help is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        self.epilog = "\n\n".join(self.about_methods())
        super().format_help(ctx, formatter)

    def about_methods(self) -> list[str]:
        """The paragraphs at the end of the help."""
        return _methods()


class IdentifyCommand(MethodCommand):
    """A command that takes the settings of its --method as options: `context.obj` has them.

    A method may come from another package and have settings of its own, so they are not written into the command; the
    registry says whose they are.
    """

    def about_methods(self) -> list[str]:
        """The methods and their settings."""
        return [*_methods(), *_settings()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the settings, `--top-fraction 0.01` or `--top-fraction=0.01`, and leave the rest to the command."""
        if ctx.resilient_parsing:  # the shell completes a word
            return super().parse_args(ctx, args)
        own = {option for parameter in self.params for option in parameter.opts}
        found: dict[str, str | None] = {}
        rest, words = [], list(args)
        while words:
            word, joined, value = words.pop(0).partition("=")
            if word.startswith("--") and word not in own and word in _options(args):
                found[word] = value if joined else words.pop(0) if words else None
            else:
                rest.append(word + joined + value)
        rest = super().parse_args(ctx, rest)
        ctx.obj = _checked(ctx.params["method"], found) if found else {}
        return rest


def _options(args: list[str]) -> set[str]:
    """All settings as options: those of a package's method only where the line names it, since it is imported then."""
    from neuroglot.identify.registry import described, listed

    words = {word for each in args for word in (each, each.partition("=")[2], each.removeprefix("-m"))}
    methods = [described(found.name) if found.name in words else found for found in listed()]
    return {_option(name) for method in methods for name in method.settings}


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _checked(method: str, given: dict[str, str | None]) -> dict[str, Any]:
    """A method's settings from options.

    Raises:
        NeuroglotError: the method is unknown or has no such setting, or a value is missing or of another type.
    """
    from neuroglot.identify.registry import described

    known, found = described(method).defaults, {}
    names = {_option(name): name for name in known}
    for option, text in given.items():
        if option not in names:
            raise NeuroglotError(f"{method} has no {option.removeprefix('--')}; leave the option out.")
        name = names[option]
        found[name] = _value(option, text or "", known[name])
    return found


def _value(option: str, text: str, default: Any) -> Any:
    """The value of a setting, of the type that its default has."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(type(default)).validate_python(text)
    except ValidationError as error:
        raise NeuroglotError(f"{option} takes a value such as {default}, not {text!r}.") from error


def _methods() -> list[str]:
    """The methods, a paragraph each: what each takes first, and what it needs."""
    from neuroglot.identify.registry import EVIDENCE, listed

    lines = ["[bold]Methods[/bold]"]
    for found in listed():
        needs = [EVIDENCE.get(need, need) for need in found.needs if need != "seed"]
        words = f"{found.about} Needs {', '.join(needs)}." if needs else found.about
        lines.append(f"[bold cyan]{found.name}[/bold cyan]: {escape(words)}")
    return lines


def _settings() -> list[str]:
    """The settings of the methods, a paragraph each: whose it is, what it is by default, what it means."""
    from neuroglot.identify.registry import listed

    owners: dict[tuple[str, Any, str], list[str]] = {}
    for found in listed():
        for name, setting in found.settings.items():
            owners.setdefault((name, setting.default, setting.about), []).append(found.name)
    lines = ["[bold]Settings of the methods[/bold]"]
    for (name, default, about), methods in sorted(owners.items(), key=lambda item: item[0][0]):
        words = f" ({', '.join(methods)}; default {default}): {about}"
        lines.append(f"[bold cyan]{_option(name)}[/bold cyan]{escape(words)}")
    return lines
