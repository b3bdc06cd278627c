"""`neuroglot doctor`, the version in one place, and shell completion."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import neuroglot as ng
from neuroglot.cli import installation

ROOT = Path(__file__).parents[2]
NEEDED = ["torch>=2", "numpy>=1", "surely-not-there>=1", "numpy>=99"]
OPTIONAL = ['surely-missing>=1; extra == "judge"', 'numpy>=1; extra == "demo"', 'pytest>=1; extra == "dev"']


def test_what_is_missing_is_told_with_what_gets_it(monkeypatch):
    monkeypatch.setattr(installation, "_requirements", lambda: NEEDED + OPTIONAL)
    found = installation.examine()
    assert found.broken == ["surely-not-there", f"numpy>=99 (there is {found.versions['numpy']})"]
    assert [(extra.name, extra.missing) for extra in found.extras] == [("demo", ()), ("judge", ("surely-missing",))]
    assert found.versions["neuroglot"] == ng.__version__
    assert found.devices[0].startswith("cpu: ")


def test_doctor_ends_badly_only_where_something_needed_is_missing(monkeypatch, capsys):
    from neuroglot import cli

    def run():
        monkeypatch.setattr(sys, "argv", ["neuroglot", "doctor"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    monkeypatch.setattr(installation, "_requirements", lambda: OPTIONAL)
    code, said = run()
    assert code == 0 and 'pip install "neuroglot[judge]"' in said.out
    monkeypatch.setattr(installation, "_requirements", lambda: NEEDED)
    code, said = run()
    assert code == 1 and "surely-not-there" in said.err


def test_markers_of_other_systems_and_of_two_extras_are_read():
    def extras(text):
        return installation._extras(Requirement(text))

    assert extras("a; sys_platform == 'nowhere'") == []
    assert extras("a; sys_platform != 'nowhere'") == [""]
    assert extras("a; extra == 'x'") == ["x"]
    assert extras("a; (sys_platform != 'nowhere') and extra == 'x'") == ["x"]


def test_the_version_is_the_same_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == ng.__version__
    assert len(cited["references"]) == 3
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest[1] == ng.__version__


@pytest.mark.parametrize(("shell", "expected"), [("bash", "study"), ("zsh", "study"), ("fish", "study")])
def test_the_shell_completes_commands(shell, expected):
    program = "import sys; sys.argv[0] = 'neuroglot'; from neuroglot.cli import main; main()"
    words = {"COMP_WORDS": "neuroglot stu", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "neuroglot stu",
             "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={**os.environ, **words, "_NEUROGLOT_COMPLETE": f"complete_{shell}"},
    )  # fmt: skip
    assert expected in done.stdout, done.stderr
    assert "perturb" not in done.stdout


def test_doctor_looks_at_a_model(checkpoint, monkeypatch, capsys):
    from neuroglot import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["neuroglot", "doctor", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr()

    code, said = run(checkpoint)
    assert not code and "llama, declared" in said.out and "3 of 24 neurons" in said.out and "zeroed column" in said.out
    code, said = run(checkpoint, "--json")
    found = json.loads(said.out)
    assert found["widths"] == [24, 24, 24] and found["gated"] and found["sites"]["hidden"].startswith("input of")
    code, said = run("/nowhere/model")
    assert code == 2 and "There is no model at" in said.err
