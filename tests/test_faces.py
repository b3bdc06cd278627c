"""What packages hand on: every name from its home, when it is asked for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import neuroglot as ng

SOURCE = Path(ng.__file__).parent
FACES = [
    ".".join(("neuroglot", *stub.parent.relative_to(SOURCE).parts)) for stub in sorted(SOURCE.rglob("__init__.pyi"))
]


@pytest.mark.parametrize("name", FACES)
def test_every_name_has_a_home(name):
    package = importlib.import_module(name)
    assert package.__all__
    for each in package.__all__:
        assert getattr(package, each) is getattr(package, each)
        assert each in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_a_file_does_not_hide_the_function_of_its_name():
    importlib.import_module("neuroglot.identify.lape")
    importlib.import_module("neuroglot.recording.record_samples")
    assert ng.identify.lape.__module__ == "neuroglot.identify.lape" and callable(ng.identify.lape)
    assert importlib.import_module("neuroglot.recording").record_samples is ng.record_samples


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ("evaluate.Arm", "evaluate.Ablation"),
        ("evaluate.Change", "evaluate.Condition"),
        ("evaluate.Identifier", "evaluate.LanguageIdentifier"),
        ("evaluate.leads", "evaluate.diagonal_dominant"),
        ("evaluate.measure_arms", "evaluate.measure_conditions"),
        ("evaluate.others_effect", "evaluate.off_target_effect"),
        ("evaluate.own_effect", "evaluate.on_target_effect"),
        ("identify.take", "identify.select_top"),
        ("recording.Ray", "recording.RayEngine"),
    ],
)
def test_names_of_earlier_scripts_are_found_but_not_listed(earlier, now):
    def find(path):
        package, name = path.split(".")
        return importlib.import_module(f"neuroglot.{package}"), name

    (package, old), (home, new) = find(earlier), find(now)
    assert getattr(package, old) is getattr(home, new)
    assert old not in package.__all__ and old not in dir(package)


def test_importing_the_package_imports_nothing_heavy():
    code = "import neuroglot, sys; print(sorted({'torch', 'transformers', 'datasets', 'pandas'} & {*sys.modules}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
