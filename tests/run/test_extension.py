"""A run whose tokens are raised: what was found in fewer goes, the rest stays, and the end is that of one pass."""

import shutil
from contextlib import suppress

import pytest
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.errors import NeuroglotWarning
from neuroglot.recording.shard_store import ShardStore
from neuroglot.run.directory import Run
from neuroglot.run.recording import begin_run
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

SHARD = 248  # tokens of text in a shard of 8 blocks
COMMANDS = [
    "identify {run} --top-fraction 0.2 --activity-quantile 0.6",
    "identify {run} --method random",
    "perturb {run} --block 32 --seeds 1",
    "perturb {run} --method random --block 32 --seeds 1",
    "compare {run} --methods lape,random --budget 0.1 --block 32 --seeds 1",
    "experts {run} --experts 4 --kind contiguous --top 0.5",
    "prune {run} --share 0.5 --samples 4 --seeds 1",
    "report {run}",
]


@pytest.fixture(scope="module")
def record(checkpoint, corpus):
    def call(run, tokens, *more):
        how = ["--block", 32, "--shard-tokens", 256, "--tokens", tokens]
        return neuroglot("record", checkpoint, corpus, "--out", run, *how, *more)

    return call


@pytest.fixture(scope="module")
def less(tmp_path_factory, record):
    """A finished run in which everything was found and measured."""
    folder = tmp_path_factory.mktemp("extension") / "run"
    record(folder, 2 * SHARD)
    for command in COMMANDS:
        neuroglot(*command.format(run=folder).split())
    return folder


@pytest.fixture
def run(less, tmp_path):
    return shutil.copytree(less, tmp_path / "run")


def stopped(*_, **__):
    raise KeyboardInterrupt


def held(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_ends_as_one_pass_and_drops_what_was_found_in_less(run, record, tmp_path, monkeypatch, capsys):
    before, held_out = held(run), list(Run.open(run).manifest.text.load()[1]["fr"])
    capsys.readouterr()
    record(run, 4 * SHARD)
    assert (
        "recorded on more text, so what was found in less of it is dropped: neurons of lape" in capsys.readouterr().err
    )
    record(tmp_path / "once", 4 * SHARD)
    after = held(run)
    assert after["recording/recording.safetensors"] == held(tmp_path / "once")["recording/recording.safetensors"]
    manifest = Run.open(run).manifest
    assert manifest.record.tokens == 4 * SHARD
    assert set(manifest.identify) == set(manifest.perturb) == {"random"}  # it depends on no text
    assert not manifest.compare and not manifest.prune
    gone = {"neurons/lape.safetensors", "perturbation/lape.json", "experts/pruning.csv", "report.html"}
    gone |= {"comparison/comparison.json", "tables/neurons-lape.csv", "figures/layers-lape.png"}
    assert gone <= before.keys() and not gone & after.keys()
    kept = {"neurons/random.safetensors", "perturbation/random.json", "experts/partition.safetensors"}
    assert all(before[name] == after[name] for name in kept)
    assert list(Run.open(run).manifest.text.load()[1]["fr"]) == held_out
    assert "run `neuroglot identify" in refused(monkeypatch, capsys, "perturb", run)
    assert "counted experts on fewer tokens" in refused(monkeypatch, capsys, "prune", run, "--share", 0.5)
    for command in COMMANDS:  # all is found anew, experts on the new text alone
        if command.startswith(("identify {run} --top", "experts")):
            neuroglot(*command.format(run=run).split())
            neuroglot(*command.format(run=tmp_path / "once").split())
    once, again = held(tmp_path / "once"), held(run)
    for name in ("neurons/lape.safetensors", "experts/recording/recording.safetensors"):
        assert once[name] == again[name]


def test_a_dry_run_forecasts_the_rest_and_changes_nothing(run, record, tmp_path, monkeypatch):
    def forecast(folder, tokens):
        before = held(folder)
        said = record(folder, tokens, "--dry-run")
        assert held(folder) == before
        return said

    rest = f"recorded already: {3 * 2 * SHARD:,} tokens"
    said = forecast(run, 4 * SHARD)
    assert rest in said and "shards: 6 (en 2, fr 2, ru 2)" in said and f"of {3 * 2 * 256:,} tokens" in said
    assert "has all of it, 1,488 tokens: nothing is left" in forecast(run, 2 * SHARD)
    put = ShardStore.put

    def three(self, *shard):  # an interrupted raise
        if len(list((run / "recording").glob("shards/*.safetensors"))) == 3:
            raise KeyboardInterrupt
        put(self, *shard)

    with monkeypatch.context() as patched, suppress(AssertionError):
        patched.setattr(ShardStore, "put", three)
        record(run, 4 * SHARD)
    said = forecast(run, 4 * SHARD)
    assert f"recorded already: {(3 * 2 + 3) * SHARD:,} tokens" in said and "shards: 3 (en 0, fr 1, ru 2)" in said
    record(run, 4 * SHARD)
    record(tmp_path / "once", 4 * SHARD)
    file = "recording/recording.safetensors"
    assert (run / file).read_bytes() == (tmp_path / "once" / file).read_bytes()


def test_what_is_refused_changes_nothing(run, record, checkpoint, corpus, monkeypatch, capsys):
    before = held(run)
    how = ["record", checkpoint, corpus, "--out", run, "--shard-tokens", 256]
    fewer = refused(monkeypatch, capsys, *how, "--block", 32, "--tokens", SHARD)
    assert f"record.tokens (was {2 * SHARD}, now {SHARD}); its tokens can be raised, not lowered" in fewer
    other = refused(monkeypatch, capsys, *how, "--block", 16, "--tokens", 4 * SHARD)
    assert "record.block (was 32, now 16); choose another --out" in other and "record.tokens" not in other
    for changed in ("fingerprint", "tokenizer_fingerprint"):  # in the same directory
        with monkeypatch.context() as patched:
            patched.setattr(ng.Model, changed, property(lambda _: "another"))
            another = refused(patched, capsys, *how, "--block", 32, "--tokens", 4 * SHARD)
        assert "record again into another --out" in another
    assert held(run) == before
    (run / "recording" / "recording.safetensors").unlink()
    unfinished = refused(monkeypatch, capsys, *how, "--block", 32, "--tokens", 4 * SHARD)
    assert "has not finished recording 496 tokens a language; finish that first" in unfinished


def test_stopped_between_settings_and_pass_nothing_old_is_taken_for_new(run, checkpoint, corpus, record, monkeypatch):
    settings = (
        ModelSettings(source=str(checkpoint)),
        TextSettings(source=str(corpus)),
        RunRecordSettings(block=32, shard_tokens=256, tokens=4 * SHARD),
    )
    with monkeypatch.context() as patched:
        patched.setattr("neuroglot.run.recording.one_pass", stopped)
        with pytest.warns(NeuroglotWarning, match="in less of it is dropped"), pytest.raises(KeyboardInterrupt):
            begin_run(run, *settings)
    with pytest.raises(ng.NeuroglotError, match="has no finished recording; run the same `neuroglot record`"):
        _ = Run.open(run).recording
    _, _, made = begin_run(run, *settings)
    assert made.tokens.tolist() == [4 * SHARD] * 3


def test_where_all_text_was_recorded_more_tokens_change_no_result(record, tmp_path):
    record(tmp_path / "run", 10**6)
    neuroglot("identify", tmp_path / "run", "--top-fraction", "0.2", "--activity-quantile", "0.6")
    before = held(tmp_path / "run")
    record(tmp_path / "run", 2 * 10**6)
    after = held(tmp_path / "run")
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"run.json", "recording/plan.json"}
