"""Options that are made of the fields of settings, so that a command says nothing of them again."""

import inspect
from collections.abc import Callable, Sequence
from functools import update_wrapper
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import OneCommand, app

if TYPE_CHECKING:  # importing it takes a sixth of a second, and --help of all commands should not
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = ["command_with"]

Command = Callable[..., None]


def command_with(settings: "Callable[[], type[BaseModel]]") -> Callable[[Command], Command]:
    """Register a function of `**values` as a command whose options are its own and one for each field of the settings.

    A field's option has its sentence, default and bounds. They are made when the command is parsed or asked for help,
    so that no other command pays for importing the settings.

    Args:
        settings: gives the class of settings.
    """

    def register(function: Command) -> Command:
        own = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]

        class WithFields(OneCommand):
            complete = False

            def get_params(self, ctx: Any) -> list[Any]:
                if not self.complete:
                    full = typer.Typer(add_completion=False)
                    first = [each for each in own if each.default is each.empty]
                    fields = [_option(name, field) for name, field in settings().model_fields.items()]
                    full.command()(_with_parameters(function, [*first, *fields, *own[len(first) :]]))
                    built = typer.main.get_command(full)
                    self.params, self.callback, self.complete = built.params, built.callback, True
                return super().get_params(ctx)

        app.command(cls=WithFields)(_with_parameters(function, own))
        return function

    return register


def _option(name: str, field: "FieldInfo") -> inspect.Parameter:
    """The parameter of a field, as Typer reads it."""
    least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    said = " ".join((field.description or "").split())
    option = typer.Option(min=least, help=said, show_default=field.default is not None)
    kind = Annotated[field.annotation, option]  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kind)


def _with_parameters(function: Command, parameters: Sequence[inspect.Parameter]) -> Command:
    """The function, with these parameters for all that look at its signature."""

    def call(*args: Any, **values: Any) -> None:
        function(*args, **values)

    update_wrapper(call, function)
    named = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters]
    call.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in named}
    return call
