"""The parameters of a pass: said once, and refused by name."""

import inspect
import subprocess
import sys

import pytest
import tiny
from commands import neuroglot
from typer.main import get_command

import neuroglot as ng
from neuroglot.cli.app import app
from neuroglot.recording.settings import PassSettings, RecordSettings


@pytest.mark.parametrize("function", [ng.record, ng.recording.forecast])
def test_the_fields_are_the_arguments(function):
    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["model", "corpus", *RecordSettings.model_fields]
    for name, field in RecordSettings.model_fields.items():
        assert parameters[name].default == field.default
        assert field.description and f"{name}: {' '.join(field.description.split())}" in function.__doc__


def test_the_options_of_the_command_are_the_fields():
    command = get_command(app).commands["record"]
    options = {option.name: option for option in command.get_params(command.make_context("record", ["m", "c"]))}
    for name, field in PassSettings.model_fields.items():
        assert options[name].help == " ".join(field.description.split())
        assert options[name].default == field.default
        assert options[name].min == field.metadata[0].ge
    assert "--shard-tokens" in neuroglot("record", "--help")


def test_the_settings_import_no_torch():
    program = "import sys, neuroglot.recording.settings, neuroglot.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"tokens": 0}, "^tokens must be greater than or equal to 1, not 0.$"),
        ({"block": 1}, "^block must be greater than or equal to 2, not 1.$"),
        ({"examples": -1}, "^examples must be greater than or equal to 0, not -1.$"),
        ({"readers": -1}, "^readers must"),
        ({"batch_tokens": "many"}, "^batch_tokens must be a valid integer"),
        ({"part": (3, 2)}, r"^part \(i, n\) needs 1 ≤ i ≤ n, not \(3, 2\).$"),
        ({"blocks": 3}, "^blocks is none of the arguments tokens, block, "),
        ({"statistics": ()}, "^No statistic"),
        ({"statistics": ["activ"]}, r"^\['activ'\] cannot be recorded; choose among active, "),
    ],
)
def test_what_is_out_of_range_is_one_sentence_that_names_it(wrong, sentence):
    for function in (ng.record, ng.recording.forecast):
        with pytest.raises(ng.NeuroglotError, match=sentence):
            function(tiny.model(), tiny.corpus(), **{"block": 16, "progress": False} | wrong)
