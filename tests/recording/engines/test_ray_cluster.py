"""Workers that are processes of their own: the same bytes, whoever dies."""

import os
import signal
from pathlib import Path

import pytest
import tiny

import neuroglot as ng
from neuroglot.recording.engines.ray_cluster import RayEngine
from neuroglot.recording.shard_store import ShardStore
from neuroglot.recording.statistics import own

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")
SETTINGS = {"block": 16, "shard_tokens": 128, "progress": False}
STATISTICS = ("active", "hidden", "squares", "highest")  # two of one's own, which no worker can import


@pytest.fixture(scope="module", autouse=True)
def registered():
    before = dict(own._registered)

    @ng.recording.statistic("squares")
    def squares(activation, hidden):
        return hidden.double().square().sum((0, 1))

    @ng.recording.statistic("highest", merge="max")
    def highest(activation, hidden):
        return activation.amax((0, 1))

    yield
    own._registered.clear()
    own._registered.update(before)


def recorded(checkpoint, directory, engine=None):
    """With the statistics of one's own; its bytes."""
    ng.record(ng.load_model(checkpoint), tiny.corpus(40), directory=directory, engine=engine, statistics=STATISTICS,
              **SETTINGS)  # fmt: skip
    return (directory / "recording.safetensors").read_bytes()


@pytest.fixture(scope="module")
def reference(tmp_path_factory, checkpoint, registered):
    return recorded(checkpoint, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests here, which is what takes time."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def workers():
    """The process ids of this process's workers."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def mine(pid):
        while pid in parents:
            if pid == os.getpid():
                return True
            pid = parents[pid]
        return False

    def is_worker(pid):
        try:
            return b"ray::Worker" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
        except OSError:
            return False

    return [pid for pid in parents if is_worker(pid) and mine(pid)]


def test_two_workers_make_the_same_bytes(tmp_path, cluster, checkpoint, reference):
    engine = RayEngine(workers=2, cpus_per_worker=1, gpus_per_worker=0)
    assert recorded(checkpoint, tmp_path, engine) == reference


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")
def test_the_shards_of_a_killed_worker_are_recorded_elsewhere(tmp_path, monkeypatch, cluster, checkpoint, reference):
    put, killed, stored = ShardStore.put, [], []

    def kill_then_put(self, name, recording):
        if len(killed) < 2 and len(stored) % 4 == 0 and (pids := workers()):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
        stored.append(name)
        put(self, name, recording)

    monkeypatch.setattr(ShardStore, "put", kill_then_put)
    engine = RayEngine(workers=2, cpus_per_worker=1, gpus_per_worker=0)
    found = recorded(checkpoint, tmp_path, engine)
    assert len(killed) == 2
    assert len(set(stored)) == len(stored)
    assert found == reference


@pytest.mark.long
def test_begun_on_ray_and_ended_here(tmp_path, monkeypatch, cluster, checkpoint, reference):
    put, stored = ShardStore.put, []

    def stop(self, name, recording):
        put(self, name, recording)
        stored.append(name)
        if len(stored) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ShardStore, "put", stop)
        recorded(checkpoint, tmp_path, RayEngine(workers=2, cpus_per_worker=1, gpus_per_worker=0))
    assert recorded(checkpoint, tmp_path) == reference


@pytest.mark.long
def test_what_a_worker_refuses_is_one_sentence(tmp_path, cluster, checkpoint):
    engine = RayEngine(workers=1, cpus_per_worker=1, gpus_per_worker=0)
    with pytest.raises(ng.NeuroglotError, match="Workers open the model themselves"):
        ng.record(tiny.model(), tiny.corpus(), engine=engine, **SETTINGS)
    model = ng.load_model(checkpoint)
    elsewhere = tmp_path / "other"
    tiny.network(seed=1).save_pretrained(elsewhere)
    tiny.tokenizer().save_pretrained(elsewhere)
    for source, words in [(elsewhere, "has other weights than the one here"), (tmp_path / "none", "no model at")]:
        engine = RayEngine(1, 0, 1, opening={"source": str(source)})
        with pytest.raises(ng.NeuroglotError, match=words):
            ng.record(model, tiny.corpus(), engine=engine, **SETTINGS)
    broken = tiny.network()
    broken.model.layers[1].mlp.down_proj.weight.data.fill_(float("nan"))
    broken.save_pretrained(elsewhere)
    with pytest.raises(ng.NeuroglotError, match="not numbers"):
        ng.record(ng.load_model(elsewhere), tiny.corpus(), engine=RayEngine(1, 0, 1), **SETTINGS)


def test_more_gpus_than_there_are_is_one_sentence(cluster, checkpoint):
    with pytest.raises(ng.NeuroglotError, match="A worker wants 64 GPUs"):
        ng.record(ng.load_model(checkpoint), tiny.corpus(), engine=RayEngine(1, 64), **SETTINGS)


def test_without_ray_it_says_what_to_install(monkeypatch, checkpoint):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ng.NeuroglotError, match=r'pip install "neuroglot\[cluster\]"'):
        ng.record(ng.load_model(checkpoint), tiny.corpus(), engine=RayEngine(), **SETTINGS)
