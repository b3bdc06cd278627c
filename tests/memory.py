"""So many tokens through a tiny model: peak memory of each tenth, of reading and of recording, as JSON.

`python memory.py DIRECTORY TOKENS`. Documents are made as they are asked for, so that they are nowhere in memory.
"""

import json
import re
import sys
from pathlib import Path

import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.corpus import Documents
from neuroglot.recording.shard_store import ShardStore
from neuroglot.tokens.shards import Reading


def peak():
    """The peak since it was asked last, in KB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    Path("/proc/self/clear_refs").write_text("5")
    return int(found.group(1))


def by_tenths(kind, method):
    """Have the peak taken after each tenth of the shards."""
    original, peaks, calls = getattr(kind, method), [], 0

    def call(self, *arguments):
        nonlocal calls
        calls += 1
        result = original(self, *arguments)
        if calls % 10 == 0:
            peaks.append(peak())
        return result

    setattr(kind, method, call)
    return peaks


def main(directory, tokens):
    torch.set_num_threads(1)
    model = tiny.model()
    documents = {
        tag: Documents(lambda tag=tag: (f"{tag}: {i * i} and then some more words, {i}" for i in range(10**9)))
        for tag in ("en", "fr")
    }
    settings = {"block": 100, "shard_tokens": tokens // 100, "batch_tokens": 5000, "readers": 0, "progress": False}
    ng.record(model, ng.Corpus(documents), tokens=50_000, **settings)  # what the first pass allocates for good
    reading, recording = by_tenths(Reading, "_write"), by_tenths(ShardStore, "put")
    made = ng.record(model, ng.Corpus(documents), tokens=tokens // 2, directory=directory, **settings)
    print(json.dumps({"tokens": int(made.tokens.sum()), "reading": reading[:10], "recording": recording[:10]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
