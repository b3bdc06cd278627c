"""The command line as a person meets it: its files, its words, its exit status."""

import json
import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng


@pytest.fixture(scope="module")
def run(tmp_path_factory, recorded):
    """A whole run, command by command."""
    folder = shutil.copytree(recorded, tmp_path_factory.mktemp("runs") / "run")
    neuroglot("identify", folder, "--top-fraction", 0.2, "--activity-quantile", 0.6)
    neuroglot("perturb", folder, "--block", 32, "--seeds", 2)
    neuroglot("report", folder)
    return folder


def test_size_matched_sets_are_measured_from_the_command_line_and_one_seed_claims_nothing(recorded, tmp_path):
    folder = shutil.copytree(recorded, tmp_path / "run")
    neuroglot("identify", folder, "--top-fraction", 0.2, "--activity-quantile", 0.6)
    said = " ".join(neuroglot("perturb", folder, "--block", 32, "--seeds", 1).split())
    assert "has one seed, so its spread is not known" in said and "standard deviation" not in said
    neuroglot("perturb", folder, "--block", 32, "--seeds", 2, "--size-matched")  # the rows that are there stay
    neuroglot("report", folder)
    table = pd.read_csv(folder / "tables" / "perturbation-lape.csv", keep_default_na=False)
    matched = table[table["off"] == "matched"]
    sizes = table[(table["off"] == table["measured"])].set_index("off")["neurons"].to_dict()
    assert len(matched) == 2 * 3 and dict(zip(matched["measured"], matched["neurons"], strict=True)) == sizes
    assert json.loads((folder / "run.json").read_text())["perturb"]["lape"]["matched"] is True


def test_a_run_holds_what_the_design_says(run):
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["record"] == {
        "tokens": 2000,
        "block": 32,
        "batch_tokens": None,
        "shard_tokens": None,
        "experts": None,
        "examples": 0,
        "residual": False,
        "heads": False,
        "own": [],
    }
    assert manifest["identify"]["lape"] == {"top_fraction": 0.2, "activity_quantile": 0.6}
    assert manifest["neuroglot"] == ng.__version__
    assert ng.Recording.load(run / "recording" / "recording.safetensors").languages == ("en", "fr", "ru")
    neurons = ng.NeuronSet.load(run / "neurons" / "lape.safetensors")
    assert int(neurons.union().sum()) == round(0.2 * 72)
    index = pd.read_csv(run / "tables" / "index-lape.csv")
    mask = torch.zeros_like(neurons.mask)
    for row in index.itertuples():
        mask[neurons.languages.index(row.language), row.layer - 1, row.neuron] = True
    assert torch.equal(mask, neurons.mask)
    perturbation = pd.read_csv(run / "tables" / "perturbation-lape.csv", keep_default_na=False)
    assert len(perturbation) == (1 + 3 + 2) * 3
    for name in ("perturbation-lape", "layers-lape", "overlap-lape"):
        assert (run / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (run / "figures" / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    assert not list(run.rglob("*.partial"))


def test_the_report_stands_alone(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    for outside in ("http://", "https://", "<script src", "<link"):
        assert outside not in page
    for words in ("Russian", "Perplexity-change matrix", "Random neurons", "is an exception", "run.json"):
        assert words in page
    for link in ("tables/perturbation-lape.csv", "tables/neurons-lape.csv", "tables/index-lape.csv", "run.json"):
        assert f'href="{link}"' in page and (run / link).is_file()


def test_names_from_outside_are_shown_as_text(run, tmp_path):
    import shutil

    from neuroglot.report.page import report
    from neuroglot.run.directory import Run

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    manifest = (copy / "run.json").read_text()
    (copy / "run.json").write_text(manifest.replace(json.loads(manifest)["model"]["source"], "<script>x</script>"))
    page = report(Run.open(copy)).read_text(encoding="utf-8")
    assert "<script>x" not in page and "&lt;script&gt;x" in page


def test_the_same_command_goes_on_and_others_are_refused(run, checkpoint, corpus, monkeypatch, capsys):
    before = (run / "recording" / "recording.safetensors").read_bytes()
    neuroglot("record", checkpoint, corpus, "--out", run, "--block", 32, "--tokens", 2000)
    assert (run / "recording" / "recording.safetensors").read_bytes() == before
    sentence = refused(monkeypatch, capsys, "record", checkpoint, corpus, "--out", run, "--block", 64, "--tokens", 2000)
    assert "block (was 32, now 64)" in sentence


def test_changed_weights_are_noticed(tmp_path, checkpoint, corpus, monkeypatch, capsys):
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(checkpoint, copy)
    neuroglot("record", copy, corpus, "--out", tmp_path / "run", "--block", 32, "--tokens", 500)
    neuroglot("identify", tmp_path / "run", "--method", "random")
    tiny.network(seed=1).save_pretrained(copy)
    assert "its weights changed" in refused(monkeypatch, capsys, "perturb", tmp_path / "run", "--method", "random")


def test_refusals(tmp_path, run, checkpoint, corpus, monkeypatch, capsys):
    def no(*arguments):
        return refused(monkeypatch, capsys, *arguments)

    out = ("--out", tmp_path / "new")
    assert "There is no corpus" in no("record", checkpoint, tmp_path / "none", *out)
    assert "There is no model" in no("record", tmp_path / "none", corpus, *out)
    assert "only en" in no("record", checkpoint, corpus, *out, "--languages", "en")
    assert "too few for one block of 100" in no("record", checkpoint, corpus, *out, "--tokens", 50, "--block", 100)
    assert "not a language tag" in no("record", checkpoint, corpus, *out, "--languages", "en,klingonish")
    assert "--dtype" in no("record", checkpoint, corpus, *out, "--dtype", "float3")
    assert "is not a run" in no("identify", tmp_path / "none")
    for wrong in ("nan", "inf", ",", "x", "-5", "0.5"):
        assert "texts" in no("compare", run, "--texts", wrong), wrong
    for wrong in ("nan", "inf", "-inf"):  # of numbers without bounds too
        assert "--strength takes a finite number" in no("steer", checkpoint, "a", "--to", "fr", "--strength", wrong)
        assert "--max-cost takes a finite number" in no("fix", checkpoint, "--to", "fr", "--max-cost", wrong)
    assert "curve" in no("compare", run, "--curve", "7")
    assert "methods" in no("compare", run, "--methods", ",")
    assert "is not a method" in no("identify", run, "--method", "nosuch")
    assert "layers takes numbers" in no("steer", checkpoint, "a", "--to", "fr", "--run", run, "--layers", "²")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"# \xe9t\xe9")
    assert "cannot be read as a settings file" in no("study", "lape", "--settings", latin)
    assert "exists and is not a run" in no("record", checkpoint, corpus, "--out", corpus, "--block", 32)
    assert "is not a method" in no("identify", run, "--method", "guess")
    assert "lap has no top-fraction" in no("identify", run, "--method", "lap", "--top-fraction", 0.1)
    assert "must be above 0" in no("identify", run, "--top-fraction", 2)
    assert "has no neurons of lave" in no("perturb", run, "--method", "lave")
    (tmp_path / "run.json").write_text("{")
    assert "damaged" in no("report", tmp_path)


def test_other_methods_join_the_report(run):
    for method in ("lap", "lave", "random"):
        neuroglot("identify", run, "--method", method)
    neuroglot("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "was not measured yet" in page
    assert page.count("Perplexity-change matrix.") == 1


def test_published_neurons_are_imported(run, checkpoint, tmp_path, monkeypatch, capsys):
    neurons = ng.NeuronSet.load(run / "neurons" / "lape.safetensors")
    published = neurons.save(tmp_path / "x.neuron.pth")
    neuroglot("identify", run, "--import", published, "--languages", "en,fr,ru")
    assert ng.NeuronSet.load(run / "neurons" / "imported.safetensors") == neurons
    to = max(neurons.sizes(), key=neurons.sizes().get)
    steered = neuroglot(
        "steer", checkpoint, "a", "--to", to, "--from", "none", "--run", run, "-m", "imported", "--tokens", 2
    )
    assert f"replace {neurons.sizes()[to]} neurons" in steered
    torch.save([[torch.tensor([24])] * 3], published)
    sentence = refused(monkeypatch, capsys, "identify", run, "--import", published, "--languages", "en")
    assert "names neuron 24 in layer 1 of en, but the shape says there are 24" in sentence


def test_perplexity_intact_and_with_a_language_off(run, checkpoint, corpus, monkeypatch, capsys):
    file = run / "neurons" / "lape.safetensors"
    off = ng.NeuronSet.load(file).languages[0]
    said = neuroglot(
        "evaluate", "perplexity", checkpoint, corpus, "--neurons", file, "--off", off, "--tokens", 200, "--block", 16
    )
    lines = {line.split("  ")[0].strip(): line.split() for line in said.splitlines()}
    model, texts = ng.load_model(checkpoint), ng.load_corpus(corpus)
    intact = ng.evaluate.perplexity(model, texts, tokens=200, block=16)
    with ng.intervene(model, ng.Deactivate(ng.NeuronSet.load(file)[off])):
        changed = ng.evaluate.perplexity(model, texts, tokens=200, block=16)
    assert lines["intact"][1:] == [f"{value:,.2f}" for value in intact.values()]
    assert lines[f"{off} off"][2:] == [f"{value:,.2f}" for value in changed.values()]
    sentence = refused(monkeypatch, capsys, "evaluate", "perplexity", checkpoint, corpus, "--off", off)
    assert "--neurons" in sentence


def test_version_and_help():
    assert neuroglot("--version").strip() == ng.__version__
    text = neuroglot("--help")
    for command in ("demo", "record", "identify", "perturb", "report"):
        assert command in text
        assert "Usage" in neuroglot(command, "--help")


def test_in_a_process_of_its_own(tmp_path, checkpoint):
    """No traceback, status 2, one sentence, nothing left behind."""
    result = subprocess.run(
        [sys.executable, "-m", "neuroglot", "record", checkpoint, tmp_path / "none", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: There is no corpus at") and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("errors_too", [False, True])
def test_a_log_on_a_full_disk(errors_too):
    with open("/dev/full", "w") as full:
        where = {"stdout": full, "stderr": full if errors_too else subprocess.PIPE}
        result = subprocess.run([sys.executable, "-m", "neuroglot", "--version"], text=True, **where)
    assert result.returncode == 2
    assert errors_too or (result.stderr.startswith("error: What is printed") and result.stderr.count("\n") == 1)


def test_parts_recorded_by_themselves_merge_into_the_run(tmp_path, checkpoint, corpus, run, monkeypatch, capsys):
    parts = tmp_path / "parts"
    asked = ("record", checkpoint, corpus, "--block", 32, "--tokens", 2000, "--out")
    said = neuroglot(*asked, parts, "--shard", "2/2")
    assert f"neuroglot merge {parts}" in " ".join(said.split())
    assert "shards are missing" in refused(monkeypatch, capsys, "merge", parts)
    assert "no finished recording" in refused(monkeypatch, capsys, "identify", parts)
    neuroglot(*asked, tmp_path / "elsewhere", "--shard", "1/2")
    neuroglot("merge", parts, tmp_path / "elsewhere", "--out", tmp_path / "whole")
    neuroglot(*asked, parts, "--shard", "1/2")
    neuroglot("merge", parts)
    for made in (parts, tmp_path / "whole"):
        assert (made / "recording" / "recording.safetensors").read_bytes() == (
            run / "recording" / "recording.safetensors"
        ).read_bytes()
        neuroglot("identify", made, "--top-fraction", 0.2, "--activity-quantile", 0.6)
    assert "--shard is i/n" in refused(monkeypatch, capsys, *asked, parts, "--shard", "3/2")
    assert "--engine is local or ray" in refused(monkeypatch, capsys, *asked, parts, "--engine", "spark")


@pytest.mark.parametrize("experts", [(), ("--experts", 4)])
def test_a_dry_run_says_what_it_takes_and_writes_nothing(tmp_path, checkpoint, corpus, experts):
    asked = ("record", checkpoint, corpus, "--block", 32, "--shard-tokens", 500, "--out", tmp_path / "run", *experts)
    said = neuroglot(*asked, "--dry-run")
    assert not (tmp_path / "run").exists()
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    neuroglot(*asked)
    made = ng.Recording.load(tmp_path / "run" / "recording" / "recording.safetensors")
    held = sum(each.numel() * each.itemsize for each in (made.tokens, *made.sums.values()))
    assert lines["recording, in memory and on disk"] == f"{held:,} bytes"
    text = [json.loads(path.read_text()) for path in (tmp_path / "run" / "recording" / "text").glob("*.json")]
    assert lines["shards"].split()[0] == str(sum(len(each["shards"]) for each in text))
    assert "tokens/s each" in lines["time"]
