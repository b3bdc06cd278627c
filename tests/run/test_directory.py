"""A run directory: who may change run.json when, what allows code to run, and when a run is begun."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.run.directory import Run
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings
from neuroglot.studies.settings import StudySettings, read_settings

ADD = """
import sys
from neuroglot.run.directory import Run
run = Run.open(sys.argv[1])
for number in range(25):
    with run.changing() as manifest:
        manifest.perturb[f"{sys.argv[2]}-{number}"] = {"tokens": number}
"""


def prepared(path, **model):
    settings = ModelSettings(source="gemma3-270m", **model), TextSettings(source="starter"), RunRecordSettings()
    return Run.prepare(path, *settings)


def test_what_two_processes_add_to_a_run_at_once_is_all_there(tmp_path):
    prepared(tmp_path / "run").begin()
    command = [sys.executable, "-c", ADD, str(tmp_path / "run")]
    both = [subprocess.Popen([*command, name]) for name in ("lape", "random")]
    assert [process.wait() for process in both] == [0, 0]
    kept = Run.open(tmp_path / "run").manifest.perturb
    assert set(kept) == {f"{name}-{number}" for name in ("lape", "random") for number in range(25)}


def test_nothing_is_written_where_nothing_is_changed_or_the_change_fails(tmp_path):
    run = prepared(tmp_path / "run").begin()
    file = run.path / "run.json"
    before = file.stat().st_ino, file.read_bytes()  # a write would be another file
    with run.changing():
        pass
    with pytest.raises(ZeroDivisionError), run.changing() as manifest:
        manifest.perturb["lape"] = {}
        raise ZeroDivisionError
    assert (file.stat().st_ino, file.read_bytes()) == before
    with run.changing() as manifest, run.changing() as inner:  # one thread may nest them
        inner.perturb["lap"] = {}
    with pytest.raises(ng.NeuroglotError, match="is not a run"):
        file.unlink()
        with run.changing():
            pass


def test_a_run_that_another_process_began_meanwhile_is_gone_on_with(tmp_path):
    first, second = prepared(tmp_path / "run"), prepared(tmp_path / "run")
    other = Run.prepare(
        tmp_path / "run", ModelSettings(source="smollm2-135m"), TextSettings(source="starter"), RunRecordSettings()
    )
    assert not (tmp_path / "run").exists()  # prepared is not begun
    with first.begin().changing() as manifest:
        manifest.perturb["lape"] = {"tokens": 1}
    assert "lape" in Run.open(second.begin().path).manifest.perturb
    assert other.begin().manifest.model.source == "smollm2-135m"  # it was refused by `prepare`, had it come later
    with pytest.raises(ng.NeuroglotError, match=r"model.source \(was gemma3-270m, now smollm2-135m\)"):
        Run.create(tmp_path / "run", other.manifest.model, other.manifest.text, other.manifest.record)


# --- consent ----------------------------------------------------------------------------------------------------------

EVIL = """
import pathlib
pathlib.Path({marker!r}).write_text("ran")
from transformers import PretrainedConfig, PreTrainedModel
class C(PretrainedConfig):
    model_type = "evil"
class M(PreTrainedModel):
    config_class = C
"""


@pytest.fixture
def evil(tmp_path):
    """A run directory from someone else whose run.json says that the checkpoint's code may run, and that checkpoint."""
    folder, marker = tmp_path / "model", tmp_path / "marker"
    folder.mkdir()
    files = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "architectures": ["M"], "auto_map": files}))
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    said = ModelSettings(source=str(folder), trust_remote_code=True), TextSettings(source="starter")
    run = Run.create(tmp_path / "run", *said, RunRecordSettings())
    for name in (
        "recording/recording.safetensors",
        "neurons/lape.safetensors",
        "experts/recording/recording.safetensors",
    ):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    return run.path, marker


@pytest.mark.parametrize(
    "command",
    [
        "perturb {run}", "align {run}", "compare {run}", "experts {run}", "prune {run}", "evaluate generation {run}",
        "evaluate tasks {run} --tasks smoke_xcsqa_fr", "study lape --settings {settings} --out {run}-study",
        "compare {run} {run}", "lens {run}", "moefy {run} --out {run}-moefied",
        "study lape --models {model} gemma3-270m --settings {settings} --out {run}-study", "prune {run} --out {run}-x",
    ],
)  # fmt: skip
def test_no_file_allows_code_to_run(evil, command, tmp_path, monkeypatch, capsys):
    run, marker = evil
    settings = tmp_path / "mine.toml"
    said = neuroglot("study", "settings", "lape", "quick")
    source = Run.open(run).manifest.model.source
    settings.write_text(said.replace("[model]", "[model]\ntrust_remote_code = true").replace("gemma3-270m", source))
    sentence = refused(monkeypatch, capsys, *command.format(run=run, settings=settings, model=source).split())
    assert "add --trust-remote-code to this command" in sentence
    assert not marker.exists() and not (run.parent / "run-study").exists()


def test_only_the_call_allows_code_to_run(evil):
    path, marker = evil
    with pytest.raises(ng.NeuroglotError, match="comes with code of its own"):
        Run.open(path).load_model()
    with pytest.raises(ng.NeuroglotError, match="comes with code of its own"):
        Run.open(path).manifest.model.load()
    text = '[model]\nsource = "x"\ntrust_remote_code = true\n[text]\nsource = "starter"\n[record]\n'
    with pytest.raises(ng.NeuroglotError, match="comes with code of its own"):
        read_settings(StudySettings, text, "mine.toml")
    assert read_settings(StudySettings, text, "mine.toml", trust_remote_code=True).model.trust_remote_code
    assert not marker.exists()
    with pytest.raises(ng.NeuroglotError, match="has no tokenizer"):  # it is no whole model, but its code did run
        Run.open(path, trust_remote_code=True).load_model()
    assert marker.exists()


# --- before the work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--block", 5000], "block must be from 2 to 128 tokens"),
        (["--device", "nosuch"], "--device takes cpu, cuda"),
        (["--device", "xpu:7", "--block", 32], "There is no device xpu:7 here"),
    ],
)
def test_what_is_refused_leaves_no_run(checkpoint, corpus, tmp_path, monkeypatch, capsys, options, said):
    where = tmp_path / "run"
    assert said in refused(monkeypatch, capsys, "record", checkpoint, corpus, "--out", where, *options)
    assert not where.exists()


def test_changed_settings_are_refused_before_the_model_is_opened(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    settings = ModelSettings(source=str(checkpoint)), TextSettings(source=str(corpus)), RunRecordSettings(block=32)
    Run.create(tmp_path / "run", *settings)
    monkeypatch.setattr(ModelSettings, "load", lambda *_, **__: pytest.fail("the model was opened"))
    command = ["record", checkpoint, corpus, "--out", tmp_path / "run", "--block", 64]
    assert "record.block (was 32, now 64)" in refused(monkeypatch, capsys, *command)


# --- processes --------------------------------------------------------------------------------------------------------

NEUROGLOT = [sys.executable, "-m", "neuroglot.cli"]


@pytest.mark.slow
def test_ctrl_c_says_that_the_same_command_goes_on(checkpoint, tmp_path):
    """As a terminal sends it: to the command and to the processes that read ahead for it."""
    (tmp_path / "corpus").mkdir()
    for tag, word in {"en": "the cats sat on the mat ", "fr": "çà et là un été "}.items():
        (tmp_path / "corpus" / f"{tag}.txt").write_text((word * 40 + "\n") * 2_000, encoding="utf-8")
    command = [*NEUROGLOT, "record", checkpoint, tmp_path / "corpus", "-o", tmp_path / "run", "--block", "32",
               "--shard-tokens", "2048", "--readers", "2"]  # fmt: skip
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, where the tests run behind a `&`
    ) as process:
        shards = tmp_path / "run" / "recording" / "shards"
        while not list(shards.glob("*.safetensors")):  # from which it goes on
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.endswith("stopped; the same command goes on from what is finished.\n") and "Traceback" not in said
