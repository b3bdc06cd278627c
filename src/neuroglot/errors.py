"""What Neuroglot says when it cannot go on."""

import importlib
from types import ModuleType

__all__ = ["NeuroglotError", "NeuroglotWarning", "require"]


class NeuroglotError(ValueError):
    """Bad input, told in one sentence that says what is wrong and what to do.

    The command line prints the sentence and exits with status 2.
    """


class NeuroglotWarning(UserWarning):
    """Something worth knowing about a result that is still valid, such as a method that found nothing."""


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
