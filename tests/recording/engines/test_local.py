"""Shards in this process: whatever is under way beside one, it is the same."""

import tiny

import neuroglot as ng
from neuroglot.recording.engines.local import LocalEngine


def test_a_shard_under_way_changes_nothing(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    how = {"block": 16, "shard_tokens": 64, "examples": 2, "progress": False}
    how["statistics"] = ["active", "hidden", "residual", "attribution"]
    for ahead in (0, 1, 3):
        ng.record(model, corpus, engine=LocalEngine(ahead), directory=tmp_path / str(ahead), **how)
    files = [(tmp_path / str(ahead) / "recording.safetensors").read_bytes() for ahead in (0, 1, 3)]
    assert files[0] == files[1] == files[2]
