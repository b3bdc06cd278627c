"""Processes that share a model's work: the same bytes as one, whoever dies meanwhile."""

import os
import signal
import warnings
from pathlib import Path

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.errors import NeuroglotWarning
from neuroglot.evaluate.ablation.comparison import Ablation, measure_conditions
from neuroglot.models.workers import Workers, show_note, with_workers
from neuroglot.recording.statistics import own

pytestmark = pytest.mark.slow

RECORD = {"tokens": 600, "block": 32, "shard_tokens": 128, "progress": False}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.model().save(path)
    return ng.load_model(path, device="cpu")


@pytest.fixture(scope="module")
def shared(alone):
    """The same model with two workers."""
    model = ng.load_model(alone.load_arguments["source"], device="cpu")
    with with_workers(model, 2):
        yield model


def double(model, number):
    return 2 * number + model.layers


def dies_once(model, mark, number):
    """Kills its process the first time that anybody does this."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def always_dies(model):
    os.kill(os.getpid(), signal.SIGKILL)


def refuses(model, number):
    if number == 3:
        raise ng.NeuroglotError("three is refused.")
    return number


def test_results_come_in_the_order_of_the_jobs(shared):
    assert list(shared.workers.run(double, ((n,) for n in range(9)))) == [2 * n + shared.layers for n in range(9)]
    assert list(shared.workers.run(double, ())) == []


def test_the_work_of_a_killed_worker_is_done_by_others(shared, tmp_path):
    assert list(shared.workers.run(dies_once, ((str(tmp_path / "mark"), n) for n in range(5)))) == list(range(5))


@pytest.mark.skipif("BREAK" not in os.environ, reason="three more workers to open; make break")
def test_a_job_that_kills_every_worker_is_given_up(shared):
    with pytest.raises(ng.NeuroglotError, match="3 workers died on one piece"):
        list(shared.workers.run(always_dies, [()]))


def test_everything_is_the_same_to_the_byte(alone, shared, tmp_path):
    files = {}
    corpus, held_out = tiny.corpus().split(3)
    for name, model in (("one", alone), ("two", shared)):
        folder = tmp_path / name
        recording = ng.record(model, corpus, directory=folder / "recording", **RECORD)
        neurons = ng.identify.lape(recording, top_fraction=0.2, activity_quantile=0.5)
        how = {"tokens": 62, "block": 32, "progress": False}
        ng.evaluate.perturb(model, held_out, neurons, seeds=2, matched=True, resume=folder / "matrix.json", **how)
        conditions = [Ablation("lape", 0.2, "all", neurons)]
        compared = measure_conditions(model, held_out, conditions, directory=folder / "cells", **how)
        off = ng.Recipe([ng.Deactivate(neurons[neurons.languages[0]])], model.fingerprint)
        prompts = ["one two", "three", "four five six", "seven"]
        texts = ng.evaluate.generate(model, prompts, recipes=[off, None, off, None], tokens=5)
        inside = []
        with ng.intervene(model, ng.Deactivate(neurons[neurons.languages[0]])):  # in force here, so measured here
            inside.append(ng.evaluate.perplexity(model, held_out, tokens=62, block=32, progress=False))
            inside.append(ng.evaluate.generate(model, prompts, tokens=5))
        files[name] = (
            {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()},
            texts, inside, compared.frame().to_csv(),
        )  # fmt: skip
    assert files["one"][1:] == files["two"][1:]
    assert files["one"][0].keys() == files["two"][0].keys()
    assert files["one"][0] == files["two"][0]


def test_a_statistic_that_a_script_defines_goes_along(alone, shared, tmp_path, monkeypatch):
    """By value: no worker can import what is defined here, inside a function."""
    monkeypatch.setattr(own, "_registered", {})
    least = 0.1

    @ng.recording.statistic("above", shape=(2,))
    def above(activation, hidden):
        return torch.stack([(activation > least).sum((0, 1)), (hidden > least).sum((0, 1))], -1)

    files = []
    for model in (alone, shared):
        directory = tmp_path / str(len(files))
        ng.record(model, tiny.corpus(), statistics=("active", "above"), directory=directory, **RECORD)
        files.append((directory / "recording.safetensors").read_bytes())
    assert files[0] == files[1]

    held = iter(number for number in range(9))  # which nothing can pickle
    own._registered.clear()
    ng.recording.statistic("held")(lambda activation, hidden: hidden.sum((0, 1)) * next(held))
    with pytest.raises(ng.NeuroglotError, match="held cannot be given to workers"):
        ng.record(shared, tiny.corpus(), statistics=("active", "held"), **RECORD)


def test_what_a_worker_refuses_is_said_here(shared):
    with pytest.raises(ng.NeuroglotError, match="three is refused"):
        list(shared.workers.run(refuses, ((n,) for n in range(9))))


def test_a_model_over_several_devices_has_no_workers():
    model = tiny.model()
    model.load_arguments = {}
    model.network.lm_head.to("meta")
    with pytest.raises(ng.NeuroglotError, match="spread over several devices"):
        Workers(model, 2)


@pytest.mark.long
def test_what_workers_cannot_be_is_said(alone, shared):
    with pytest.raises(ng.NeuroglotError, match="at least 1 worker"):
        Workers(alone, 0)
    with pytest.raises(ng.NeuroglotError, match="give one that load_model opened"):
        Workers(tiny.model(), 2)
    changed = ng.load_model(alone.load_arguments["source"], device="cpu")
    with torch.no_grad():
        changed.network.get_input_embeddings().weight.add_(1)
    with with_workers(changed, 1), pytest.raises(ng.NeuroglotError, match="other weights where its workers open it"):
        list(changed.workers.run(double, [(1,)]))


def group(model):
    return os.getpgid(0)


def test_ctrl_c_at_the_terminal_reaches_no_worker(shared):
    """It goes to the whole foreground group, and a worker that opens its model would print a traceback."""
    assert os.getpgid(0) not in shared.workers.run(group, ((),))


def test_a_note_of_a_worker_is_said_as_one(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show_note
        warnings.warn("It is worth a note.", NeuroglotWarning, stacklevel=1)
        warnings.warn("It is not.", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "note: It is worth a note.\n"
