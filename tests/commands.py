"""The command line in this process, as tests use it."""

import contextlib
import io
import sys
import warnings

import pytest

from neuroglot import cli
from neuroglot.errors import NeuroglotWarning


@contextlib.contextmanager
def notes():
    """The command line prints the package's warnings as notes; elsewhere in the tests they are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NeuroglotWarning)
        yield


def neuroglot(*arguments):
    """Run the command here, where it must succeed; what it printed."""
    before, sys.argv = sys.argv, ["neuroglot", *map(str, arguments)]
    printed = io.StringIO()
    try:
        with notes(), contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
            cli.main()
    finally:
        sys.argv = before
    assert stop.value.code == 0, printed.getvalue()
    return printed.getvalue()


def refused(monkeypatch, capsys, *arguments):
    """Run the command in this process, where it must refuse; its one sentence."""
    monkeypatch.setattr(sys, "argv", ["neuroglot", *map(str, arguments)])
    monkeypatch.setenv("NO_COLOR", "1")
    with notes(), pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "Traceback" not in said
    sentence = said[said.index("error: ") + 7 :].strip()
    assert "\n" not in sentence
    return sentence
