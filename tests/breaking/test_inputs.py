"""What is given and cannot be used is one sentence: templates, numbers, networks, names, full disks."""

import contextlib
import json
import resource
import shutil

import exhibit
import pytest
import tiny
import torch
from commands import notes, refused
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import neuroglot as ng
from breaking.attempts import WHOLE
from neuroglot.cli.record import part_of
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.steering import layer_numbers
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.explorer.app import build
from neuroglot.explorer.lab import answers, lab_recipe
from neuroglot.explorer.run_view import RunView
from neuroglot.report.page import report
from neuroglot.run.directory import Run
from neuroglot.run.evolution import Checkpoint
from neuroglot.run.pruning import pruning_measured
from neuroglot.storage.locks import LOCK
from neuroglot.storage.names import whole_number

TEMPLATES = {
    "refuses": "{{ raise_exception('Roles must\nalternate') }}",
    "is no template": "{% if %}",
    "names what is not there": "{{ messages[0].who.name }}",
    "adds text to a number": "{{ 1 + 'a' }}",
    "never ends": "{% for i in range(10**9) %}x{% endfor %}",
    "calls itself": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "reaches out": "{{ ''.__class__.__mro__ }}",
    "says nothing": "{{ '' }}",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return exhibit.make(tmp_path_factory.mktemp("exhibit"))


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_that_raises_is_one_sentence(template):
    model = tiny.model()
    model.tokenizer.chat_template = template
    with pytest.raises(ng.NeuroglotError) as refusal:
        ng.evaluate.generate(model, ["hello"], tokens=2, chat=True)
    assert "\n" not in str(refusal.value) and model.name in str(refusal.value)


def test_and_several_without_a_default():
    model = tiny.model()
    model.tokenizer.chat_template = {"tool_use": "x"}
    with pytest.raises(ng.NeuroglotError, match="chat template"):
        ng.evaluate.generate(model, ["hello"], tokens=2, chat=True)


def test_at_the_terminal_and_in_the_lab(run, tmp_path, monkeypatch, capsys):
    model = ng.load_model(run.manifest.model.source)
    model.tokenizer.chat_template = TEMPLATES["refuses"]
    place = model.save(tmp_path / "model")
    said = refused(
        monkeypatch, capsys, "steer", place, "hello", "--to", "zh", "--from", "en", "--run", run.path, "--chat"
    )
    assert "Roles must" in said and "ask without it" in said
    recipe = lab_recipe(run.recording, run.neurons("lape"), ["en"], ["zh"])
    with pytest.raises(ng.NeuroglotError, match="Roles must"):
        list(answers(model, recipe, "hello", tokens=2, chat=True))


# --- numbers ----------------------------------------------------------------------------------------------------------

DIGITS = "²³¹①½٣三๓𝟙Ⅷ"
"""Digits and numbers of Unicode: `isdigit` takes some, `isdecimal` and `int` others, `isnumeric` all."""


@given(st.text(st.sampled_from(DIGITS + "0123456789-_+ .,x")) | st.integers().map(str))
def test_a_number_is_written_in_the_digits_0_to_9(text):
    number = whole_number(text)
    plain = 0 < len(text) <= 18 and set(text) <= set("0123456789")
    assert number == (int(text) if plain else None)


@pytest.mark.parametrize("digit", [*DIGITS, "9" * 5000])
def test_other_digits_are_refused_where_a_number_is_read(run, digit, monkeypatch, capsys):
    for layers in (digit, f"1-{digit}"):
        with pytest.raises(ng.NeuroglotError, match="layers takes numbers"):
            layer_numbers(layers, 3)
    for shard in (f"{digit}/8", f"1/{digit}0"):
        with pytest.raises(ng.NeuroglotError, match="--shard is i/n"):
            part_of(shard)
    assert Checkpoint(source=f"model-step{digit}").step is None
    with pytest.raises(ng.NeuroglotError, match="not a language tag"):
        ng.Corpus({f"x{digit[:9]}": ["text"]})
    assert "--share takes" in refused(monkeypatch, capsys, "prune", run.path, "--share", digit)


def test_a_key_of_another_script_in_a_file_is_refused_or_not_a_number(tmp_path):
    """Of a file without a digest, as earlier versions wrote them."""
    manifest = {"record": {"tokens": "²"}}
    (tmp_path / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ng.NeuroglotError, match=r"run\.json is damaged"):
        Run.open(tmp_path)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "prompt", "added"])
def test_a_network_that_peft_wraps_is_refused_and_a_merged_one_taken(kind):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    network = tiny.network()
    if kind == "added":
        network.add_adapter(lora)
    else:
        prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
        network = peft.get_peft_model(network, lora if kind == "lora" else prompt)
    with pytest.raises(ng.NeuroglotError, match="merge_and_unload"):
        ng.Model(network, tiny.tokenizer())
    if kind == "lora":
        merged = ng.Model(network.merge_and_unload(), tiny.tokenizer())
        assert merged.fingerprint != tiny.model().fingerprint


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_network_whose_weights_are_brought_when_needed_is_the_same_model(tmp_path, place):
    accelerate = pytest.importorskip("accelerate")
    cpu = torch.device("cpu")
    network = tiny.network()
    if place == "memory":
        network = accelerate.cpu_offload(network, execution_device=cpu)
    else:
        network = accelerate.disk_offload(network, tmp_path / "weights", execution_device=cpu)
    assert network.device.type == "meta"
    here, there = tiny.model(), ng.Model(network, tiny.tokenizer(), name="tiny-llama")
    assert there.device == cpu and there.fingerprint == here.fingerprint
    off = ng.Deactivate(torch.rand(3, 24, generator=torch.Generator().manual_seed(0)) < 0.5)

    def measured(model):
        recording = ng.record(model, tiny.corpus(), tokens=200, block=16, progress=False)
        with ng.intervene(model, off):
            losses = ng.evaluate.perplexity(model, tiny.corpus(), tokens=60, block=16, progress=False)
        return recording.sums["active"], losses, ng.evaluate.generate(model, ["the cat"], tokens=4)

    (active, *rest), (other, *same) = measured(here), measured(there)
    assert torch.equal(active, other) and rest == same
    for write in (lambda: ng.prune(there, ~off.neurons, tmp_path / "p"), lambda: ng.bake(there, off, tmp_path / "b")):
        with pytest.raises(ng.NeuroglotError, match="load it whole"):
            write()


def test_a_network_without_weights_is_refused():
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(tiny.network().config)
    with pytest.raises(ng.NeuroglotError, match="has no weights"):
        ng.Model(network, tiny.tokenizer())


# --- names ------------------------------------------------------------------------------------------------------------


def places(folder, run):
    """Paths at which nothing can be read or written."""
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "nowhere").symlink_to(folder / "gone")
    return [folder / ("x" * 300), folder / "loop", folder / "nowhere", folder / "a\0b"]


@pytest.mark.parametrize("at", range(4), ids=["too long", "loops", "leads nowhere", "zero byte"])
def test_a_path_that_cannot_be_is_one_sentence(run, tmp_path, monkeypatch, capsys, at):
    path = places(tmp_path, run)[at]
    for read in (
        ng.load_model, ng.load_corpus, ng.Recording.load, ng.NeuronSet.load, ng.Samples.load, ng.Recipe.load, Run.open,
        *([run.recording.save] if at in (0, 3) else []),  # a link is replaced by the file
    ):  # fmt: skip
        with pytest.raises(ng.NeuroglotError):
            read(path)
    model, text = run.manifest.model.source, run.manifest.text.source
    if at == 3:  # which no shell can pass
        return
    for command in (
        ["record", path, text], ["record", model, path, "--out", tmp_path / "run"], ["identify", path],
        ["steer", model, "hi", "--recipe", path], ["evaluate", "confusion", path], ["lens", path],
        ["study", "lape", "--settings", path], ["tune", model, path],
    ):  # fmt: skip
        refused(monkeypatch, capsys, *command)


HEAD = b"choice,language,proportion,experts,random,random_std,original\n"
DAMAGED = [b"", b"\0" * 40, b"[]", b"[" * 100_000, b"choice,language\n", HEAD + b"a,fr,", HEAD + b"a,fr,x,1,1,1,2\n"]
FILES = {"experts/pruning.csv": DAMAGED, "samples/samples.json": [*DAMAGED, b"{}"]}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_or_a_directory_in_its_place_is_one_sentence(run, tmp_path, name):
    """Of files without a digest, as earlier versions wrote them."""
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    read = pruning_measured if name.endswith("csv") else lambda path: ng.Samples.load(path.parent)
    for content in FILES[name]:
        (tmp_path / "run" / name).write_bytes(content)
        with notes(), pytest.raises(ng.NeuroglotError, match=r"damaged|no samples|without digests"):
            read(tmp_path / "run" / name)
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).mkdir()
    with pytest.raises(ng.NeuroglotError):
        read(tmp_path / "run" / name)


@pytest.mark.skipif(not WHOLE, reason="make break: a page a file")
def test_a_directory_in_the_place_of_any_file_of_a_run(run, tmp_path):
    """A sentence, or a page without it."""
    for path in sorted(run.path.rglob("*")):
        if path.is_file() and path.name != LOCK:
            copy = shutil.copytree(run.path, tmp_path / "run")
            (copy / path.relative_to(run.path)).unlink()
            (copy / path.relative_to(run.path)).mkdir()
            with notes(), contextlib.suppress(ng.NeuroglotError):
                build(RunView(Run.open(copy)))
            with notes(), contextlib.suppress(ng.NeuroglotError):
                report(Run.open(copy))
            shutil.rmtree(copy)


# --- a full disk ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_after(size):
    """Files end at so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2_000, 20_000])
def test_tuning_on_a_full_disk_is_one_sentence_and_goes_on_when_there_is_room(tmp_path, size):
    pairs, how = [Pair(f"say {i}", f"le {i}") for i in range(4)], TuneSettings(epochs=1, batch=2)
    with pytest.raises(ng.NeuroglotError, match="cannot be written"), full_after(size):
        tune(tiny.model(), pairs, tmp_path / "tuned", how, progress=False)
    assert not (tmp_path / "tuned").exists()
    tune(tiny.model(), pairs, tmp_path / "tuned", how, progress=False)
    assert ng.load_model(tmp_path / "tuned").fingerprint != tiny.model().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]


def test_so_are_other_writers(run, tmp_path):
    model = tiny.model()
    writers = {
        "model": lambda path: model.save(path),
        "recording.safetensors": run.recording.save,
        "pruned": lambda path: ng.prune(model, torch.ones(3, 24, dtype=torch.bool), path),
        "neurons.safetensors": run.neurons("lape").save,
    }
    for name, write in writers.items():
        with pytest.raises(ng.NeuroglotError, match="cannot be written"), full_after(200):
            write(tmp_path / name)
        assert not list(tmp_path.iterdir())
