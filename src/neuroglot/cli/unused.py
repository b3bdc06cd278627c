"""Options that would change nothing beside the others: refused, so that nobody reads a number as if they had."""

from typing import Any

from neuroglot.errors import NeuroglotError

__all__ = ["refuse_unused", "written"]


def written(context: Any, *names: str) -> list[str]:
    """Those of the options that the line itself says, as one writes them (`--top-fraction`); `names` of parameters."""
    options = {parameter.name: parameter.opts for parameter in context.command.params}
    return [
        max(options[name], key=len) for name in names if str(context.get_parameter_source(name)).endswith("COMMANDLINE")
    ]


def refuse_unused(context: Any, why: str, *names: str) -> None:
    """Refuse the first of these options that the line says: `--budget changes nothing without --search; …`.

    Args:
        context: of the command (`typer.Context`).
        why: beside what it changes nothing, such as `without --search`.
        names: of the command's parameters.

    Raises:
        NeuroglotError: as said.
    """
    if said := written(context, *names):
        raise NeuroglotError(f"{said[0]} changes nothing {why}; leave it out.")
