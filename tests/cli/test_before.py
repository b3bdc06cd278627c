"""What can be known before the work is said before it: no model is opened, and nothing is left behind."""

import json
import shutil

import pytest
import torch
from commands import neuroglot, refused

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.run.settings import ModelSettings


@pytest.fixture(scope="module")
def run(recorded, tmp_path_factory):
    run = shutil.copytree(recorded, tmp_path_factory.mktemp("before") / "run")
    neuroglot("identify", run, "--top-fraction", 0.2, "--activity-quantile", 0.6)
    neuroglot("experts", run, "--experts", 4, "--kind", "contiguous", "--top", 0.5)
    neuroglot("perturb", run, "--block", 32, "--tokens", 200, "--seeds", 1)
    return run


@pytest.fixture(scope="module")
def bare(recorded, tmp_path_factory):
    """A run in which nothing was done but recording."""
    return shutil.copytree(recorded, tmp_path_factory.mktemp("bare") / "run")


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Text of which the last language does not fill a block."""
    folder = tmp_path_factory.mktemp("short")
    for tag, text in {
        "en": "".join(f"the cats sat on the mat {i}\n" for i in range(50)),
        "fr": "".join(f"çà et là un été {i}\n" for i in range(50)),
        "ru": "всё\nраз\n",
    }.items():
        (folder / f"{tag}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """Samples of which one is longer than the model's context, and too few to hold a block out."""
    folder = tmp_path_factory.mktemp("parallel")
    for tag, text in {"en": "the cats sat " * 99 + "\ncat" * 9, "fr": "été\n" * 10, "ru": "раз\n" * 10}.items():
        (folder / f"{tag}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Neurons of another model."""
    mask = torch.ones(1, 2, 24, dtype=torch.bool)
    return NeuronSet(mask, ["fr"]).save(tmp_path_factory.mktemp("other") / "neurons.safetensors")


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    """Directions of three layers, as somebody published them."""
    path = tmp_path_factory.mktemp("vector") / "fr.pt"
    torch.save(torch.ones(3, 16), path)
    return path


@pytest.fixture(scope="module")
def reader_of_images(tmp_path_factory, checkpoint):
    """A checkpoint whose config.json is of no language model."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("vit") / "model")
    config = {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 8, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("record {model} {short} --block 64", "ru has 14 tokens"),
        ("record {vit} {short}", "vit, which is no causal language model"),
        ("record {model} {short} --block 5000", "block must be from 2 to 128 tokens"),
        ("perturb {run} --corpus {short}", "ru has 14 tokens"),
        ("perturb {run} --block 5000", "block must be from"),
        ("perturb {run} --block 16 --tokens 200", "block (was 32, now 16)"),
        ("compare {run} --methods lape --corpus {short}", "ru has 14 tokens"),
        ("compare {run} --methods lape --block 5000", "block must be from"),
        ("evaluate perplexity {model} {short}", "ru has 14 tokens"),
        ("evaluate perplexity {vit} {short}", "no causal language model"),
        ("lens {model} --corpus {short} --out x --block 64", "ru has 0 tokens"),
        ("lens {run} --block 5000", "block must be from"),
        ("compare {run} {run} --block 5000", "block must be from"),
        ("shrink {model} -l ru --text {short} --hold-out 2", "ru has 7 tokens"),
        ("shrink {model} -l ru --text {short} --heal 9 --hold-out 5", "too few for one block of"),
        ("shrink {model} -l fr --text {short} --gguf x.gguf", "is not a GGUF file"),
        ("evolve {model} --corpus {parallel} --out x --max-tokens 20 --block 64", "the first since: en has"),
        ("evolve {model} --corpus {parallel} --out x --max-tokens 500 --block 8", "cut samples with max_tokens=127"),
        ("align {run} --corpus {parallel} --max-tokens 500", "cut samples with max_tokens=127"),
        ("align {run}", "is not a parallel corpus"),
        ("align {run} --corpus {parallel} --max-tokens 20 --new-tokens 5000", "ask for at most"),
        ("steer {model} hello --to fr --run {run} --tokens 5000", "ask for at most"),
        ("steer {model} hello --to fr --run {run} --repetition-penalty 0", "takes a finite repetition penalty above 0"),
        ("steer {model} hello --to vi --tokens 5000", "ask for at most"),
        ("evaluate generation {run} --tokens 5000", "ask for at most"),
        ("align {run} --corpus starter --max-tokens 20 --block 5000", "block must be from"),
        ("perturb {bare}", "run `neuroglot identify {bare} --method lape`"),
        ("experts {bare} --experts 100", "24 neurons cannot be split into 100 experts; ask for 1 to 24"),
        ("experts {bare} --experts 4 --top 0", "--top takes shares of all experts above 0, up to 1"),
        ("experts {bare} --experts 4 --top 0.1,2", "--top takes shares of all experts above 0, up to 1"),
        ("experts {run} --experts 3", "has experts with other settings: experts (was 4, now 3)"),
        ("prune {bare} --share 0.5", "run `neuroglot experts {bare}`"),
        ("identify {bare} --method experts", "`neuroglot experts`"),
        ("identify {bare} --method regions", "`neuroglot align`"),
        ("identify {bare} --method nosuch", "nosuch"),
        ("evaluate generation {bare}", "run `neuroglot identify {bare} --method lape`"),
        ("identify {run} --languages en,fr", "--languages names the languages of a file that --import reads"),
        ("compare {run} --methods nosuch", "nosuch"),
        ("compare {run} --methods pv", "pv needs a model tuned on each language"),
        ("compare {run} --close nosuch", "nosuch"),
        ("compare {run} --methods lape --close lap", "--close names lap, which --methods leaves out"),
        ("compare {run} --budget 1.5", "--budget takes shares of all neurons above 0, up to 1, not 1.5"),
        ("compare {run} --curve 0.1,0", "--curve takes shares of all neurons above 0, up to 1, not 0"),
        ("compare {run} --texts 0.5", "--texts takes numbers of tokens"),
        ("prune {run} --share 2", "--share takes shares above 0, up to 1, not 2"),
        ("prune {run} --budget 1.5", "--budget takes shares from 0, below 1, not 1.5"),
        ("prune {run} --budget 0.2 --salience nosuch", "--salience takes frequency, magnitude, active, not 'nosuch'"),
        ("prune {run} -l sw", "has not counted experts in sw; it has en, fr, ru"),
        ("prune {run} -l fr --share 0.5 --out {run}", "exists; choose a new directory for the pruned model"),
        ("prune {run} -l fr --share 0.5 --gguf {run}/none.gguf --out new.gguf", "none.gguf does not exist; give"),
        ("prune {run} -l fr --share 0.5 --gguf {run} --out new.gguf", "is a directory; give the intact model's"),
        ("prune {run} --ranking {run}", "{run} is a directory; give the name of a file"),
        ("identify {run} --import {run}", "{run} is a directory; give the path of a file of neurons"),
        ("identify {run}/run.json", "run.json is not a run (it is a file)"),
        ("tune {model} --only {run}", "{run} is a directory; give the neurons"),
        ("tune {model} --out {run}/run.json", "run.json is a file; give a directory"),
        ("steer {model} hello --recipe {run}", "{run} is a directory; give the path of a recipe file"),
        ("evaluate perplexity {model} starter --neurons {run} --off fr", "{run} is a directory; give the path"),
        ("evaluate perplexity {model} starter --neurons {run}/neurons/lape.safetensors --off ,", "names no language"),
        ("evaluate confusion {run} --language fr", "{run} is a directory; give a table of answers"),
        ("study lape {model} --settings {run}", "{run} is a directory; make a settings file"),
        ("--family {run} doctor", "{run} is a directory; give a TOML file"),
        ("prune {run} -l fr --share 0.5 --out x.gguf", "is not a GGUF file"),
        ("evaluate tasks {run} --tasks smoke_xcsqa_fr --off sw", "have no sw"),
        ("evaluate tasks {run} --tasks smoke_xcsqa_fr --prune sw --share 0.5", "has not counted experts in sw"),
        ("evaluate generation {run} --prompts nowhere.txt", "There is no corpus at nowhere.txt"),
        ("evaluate generation {run} --targets sw", "have no sw"),
        ("steer {model} hello --to vi --steer push", "--steer takes raise, replace"),
        ("steer {model} hello --to vi --layers 3-1", "layers takes numbers from 1"),
        ("steer {model} hello --to vi --site nosuch", "--site"),
        ("steer {model} hello --to sw --run {run}", "has not recorded sw; it has en, fr, ru"),
        ("steer {model} hello --to fr --run {run} --bake {run}", "exists; choose a new directory for the baked model"),
        ("steer {model} hello --to vi --device nosuch", "--device takes cpu, cuda"),
        ("record {model} starter --out {run}", "is a run with other settings"),
        ("moefy {run} --out x", "24 neurons cannot be split into 4 experts whose width is a multiple of 8"),
        (
            "evaluate generation {run} --targets fr --sources en --tokens 4 --search --budget 1",
            "A budget of 1 answers is",
        ),
        ("compare {run} --methods lape --budget 0.0001", "A budget of 0.0001 of 72 neurons is no number"),
        ("compare {run} --methods lape --curve 0.1,0.0001", "A budget of 0.0001 of 72 neurons is no number"),
        ("compare {run} {run} --budget 0.0001 --block 32", "A budget of 0.0001 of 72 neurons is no number"),
        ("lens {run} --top 100000", "top must be from 1 to"),
        ("lens {model} --corpus starter --out x --top 100000", "top must be from 1 to"),
        ("evaluate perplexity {model} starter --neurons {other} --off fr", "are of 2 × 24, not of 3 layers of"),
        ("tune {model} --only {other} --languages fr", "are of 2 × 24, not of 3 layers of at most 24"),
        ("steer {model} hello --vector {vector} --layers 9", "layers takes numbers from 1 to 3"),
    ],
)
def test_it_is_said_before_a_model_is_opened(
    run,
    bare,
    short,
    parallel,
    reader_of_images,
    checkpoint,
    other,
    vector,
    command,
    said,
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModelSettings, "load", lambda *_, **__: pytest.fail("the model was opened"))
    monkeypatch.setattr("neuroglot.run.evolution.load_model", None)
    places = {
        "run": run,
        "bare": bare,
        "short": short,
        "parallel": parallel,
        "vit": reader_of_images,
        "model": checkpoint,
        "other": other,
        "vector": vector,
    }
    assert said.format(**places) in refused(monkeypatch, capsys, *command.format(**places).split())
    assert not (tmp_path / "runs").exists()


def test_one_sample_is_refused_before_it_is_left_in_the_run(run, tmp_path, monkeypatch, capsys):
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"key": "a", "text": {"en": "the cat", "fr": "çà et là", "ru": "всё"}}) + "\n")
    assert "one sample only; give at least two" in refused(monkeypatch, capsys, "align", run, "--corpus", one)
