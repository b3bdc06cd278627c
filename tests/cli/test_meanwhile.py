"""A command finds other neurons while another measures with the earlier ones, and that is not taken for theirs."""

import shutil

import pytest
from commands import neuroglot, refused

from neuroglot.evaluate.ablation import perturbation
from neuroglot.run import steering, tasks
from neuroglot.run.directory import Run

FOUND = ("--top-fraction", 0.4, "--activity-quantile", 0.5)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, recorded):
    folder = shutil.copytree(recorded, tmp_path_factory.mktemp("runs") / "run")
    neuroglot("identify", folder, *FOUND)
    return folder


PERTURB = ("perturb", "{}", "--tokens", 60, "--block", 16, "--seeds", 1)
ANSWER = ("evaluate", "generation", "{}", "--limit", 1, "--tokens", 2, "--sources", "en", "--targets", "fr")
TASKS = ("evaluate", "tasks", "{}", "--tasks", "smoke_xcsqa_en", "--limit", 1, "--off", "fr", "--seeds", 1)


@pytest.mark.parametrize(
    ("module", "name", "command", "left"),
    [
        (perturbation, "held_out_blocks", PERTURB, "perturbation/*.json"),
        (steering, "_rates", ANSWER, "tables/*openings.csv"),
        (tasks, "measure_and_keep", TASKS, "tasks/*/*off-lape.json"),
    ],
    ids=["perturb", "generation", "tasks"],
)
def test_neurons_that_were_found_meanwhile(begun, tmp_path, monkeypatch, capsys, module, name, command, left):
    folder = shutil.copytree(begun, tmp_path / "run")
    own = getattr(module, name)

    def interrupted(*arguments, **named):
        given = own(*arguments, **named)
        monkeypatch.setattr(module, name, own)
        neuroglot("identify", folder, "--top-fraction", 0.2, "--activity-quantile", 0.5)
        return given

    monkeypatch.setattr(module, name, interrupted)
    command = [str(part).format(folder) for part in command]
    assert "Other neurons of lape were found" in refused(monkeypatch, capsys, *command)
    assert not [*folder.glob(left)]
    manifest = Run.open(folder).manifest
    assert not manifest.perturb and not manifest.steering and not manifest.tasks
