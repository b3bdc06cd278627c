"""Kill recordings again and again and see what comes of them: `python killing.py DIRECTORY KILLS SEED`.

A program of its own, single-threaded, so that it can fork: importing torch for every kill would take minutes. A child
records or merges; it is killed after a random time, or kills itself at a random one of the calls that change the disk,
before, after or in the middle of it. The next child goes on in the same directory. Whatever is finished must be the
bytes of an uninterrupted recording. Prints what happened as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import safetensors.torch
import tiny
import torch

import neuroglot as ng
from neuroglot.recording import shard_store as store
from neuroglot.recording.shard_store import merge

SETTINGS = {"block": 16, "shard_tokens": 128, "readers": 0, "progress": False}
FEW = 240  # tokens of a language in two shards
model, corpus = tiny.model(), tiny.corpus(40)


def record(directory, part=(1, 1)):
    ng.record(model, corpus, directory=directory, part=part, **SETTINGS)


def at_once(directory):
    record(directory)


def in_parts(directory):
    for i in (1, 2, 3):
        record(directory, (i, 3))
    merge([directory], directory)


def apart_then_merged(directory):
    for i in (1, 2):
        record(directory / f"part-{i}", (i, 2))
    merge([directory / "part-1", directory / "part-2"], directory)


def only_merged(directory):
    merge([directory.parent / "part-1", directory.parent / "part-2"], directory)


def extended(directory):
    plan = directory / "plan.json"
    if not plan.is_file() or json.loads(plan.read_text())["settings"]["tokens"] == FEW:
        ng.record(model, corpus, directory=directory, tokens=FEW, **SETTINGS)
    record(directory)


WAYS = {
    "at once": at_once,
    "in parts": in_parts,
    "apart, then merged": apart_then_merged,
    "merge": only_merged,
    "extended": extended,
}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point, moment):
    """Have the `point`-th call that changes the disk be this process's last."""
    calls = 0

    def deadly(function, halve=None):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls != point:
                return function(*arguments, **named)
            if moment == "middle" and halve is not None:
                function(*arguments, **named)
                halve(*arguments)
            elif moment != "before":
                function(*arguments, **named)
            die()

        return call

    def halve_second(_, path, **__):
        os.truncate(path, os.path.getsize(path) // 2)

    def halve_first(path, _):
        os.truncate(path, os.path.getsize(path) // 2)

    safetensors.torch.save_file = deadly(safetensors.torch.save_file, halve_second)
    Path.write_text = deadly(Path.write_text, lambda path, *_: halve_first(path, _))
    Path.write_bytes = deadly(Path.write_bytes, halve_first)
    Path.unlink = deadly(Path.unlink)
    Path.mkdir = deadly(Path.mkdir)
    os.replace = deadly(os.replace)
    os.fsync = deadly(os.fsync)
    store.shutil.rmtree = deadly(shutil.rmtree, lambda path, *_: None)


def child(way, directory, point, moment):
    pid = os.fork()
    if pid:
        return pid
    try:
        if point:
            arm(point, moment)
        WAYS[way](directory)
    except BaseException as error:
        print(f"{way}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def main(root, wanted, seed):
    torch.set_num_threads(1)
    dice = random.Random(seed)
    model.fingerprint, model.tokenizer_fingerprint  # noqa: B018 (kept for all children)
    began = time.perf_counter()
    record(root / "reference")
    takes = time.perf_counter() - began
    for i in (1, 2):
        record(root / f"part-{i}", (i, 2))
    right = (root / "reference" / "recording.safetensors").read_bytes()
    killed, finished = Counter(), Counter()
    for way in WAYS:
        kills = 0  # of this way; each has its share
        while kills < wanted / len(WAYS):
            directory = root / f"{way} {finished[way]}"
            begun = kills
            while True:
                point = dice.randint(1, 12 if way == "merge" else 90) if dice.random() < 0.6 or way == "merge" else 0
                moment = dice.choice(["before", "middle", "after"])
                last = kills >= wanted / len(WAYS) or kills - begun > 8
                pid = child(way, directory, 0 if last else point, moment)
                if not point and not last:
                    time.sleep(dice.uniform(0, takes))
                    os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                if not os.WIFSIGNALED(status):
                    break
                killed[f"{way}, {moment if point else 'some time'}"] += 1
                kills += 1
            assert os.WEXITSTATUS(status) == 0, way
            assert (directory / "recording.safetensors").read_bytes() == right, f"{way}: other bytes"
            at_once(directory)  # a finished one is taken as it is, and what a killed one left behind goes
            finished[way] += 1
            shutil.rmtree(directory)
    print(json.dumps({"killed": killed, "finished": finished}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
