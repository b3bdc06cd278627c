"""The sentence on a package that is missing."""

import sys

import pytest

import neuroglot as ng
from neuroglot.errors import first_line, require


def test_an_installed_package_is_imported():
    assert require("json.decoder", "demo") is sys.modules["json.decoder"]


@pytest.mark.parametrize("package", ["nowhere_to_be_found", "nowhere_to_be_found.inside"])
def test_a_missing_package_is_one_sentence(package):
    with pytest.raises(ng.NeuroglotError) as error:
        require(package, "tune", needed_by="An adapter")
    said = str(error.value)
    assert said.startswith("An adapter needs nowhere_to_be_found (")
    assert said.endswith('pip install "neuroglot[tune]".') and "\n" not in said


def test_a_package_that_cannot_be_imported_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import lacks_this_one\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ng.NeuroglotError, match="lacks_this_one"):
        require("broken_package", "tasks")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("It broke.\nHere is why."), "It broke"),
        (ValueError("\n  It broke\n"), "It broke"),
        (ValueError("It broke for:\n\there is why.\nAnd more."), "It broke for: here is why"),
        (ValueError(), "ValueError"),
        (RuntimeError(" \n "), "RuntimeError"),
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (OSError("the hub is out of reach"), "the hub is out of reach"),
    ],
)
def test_the_first_line_of_an_error_of_others(error, said):
    assert first_line(error) == said
