"""Kill every command that writes, and see what comes of it: `python kills.py DIRECTORY ATTEMPTS SEED PART COMMAND…`.

A program of its own, single-threaded, so that it can fork. Each command is run once to count the calls with which it
changes the disk. Then a child runs it again and kills itself at one of them, before, in the middle of or after it; the
next child goes on in the same directory. The directory must then be that of a command which was never stopped, file by
file, with no draft left. Of all calls and moments ATTEMPTS are tried, of all commands together, or with 0 all of them.
PART i/n tries every n-th. Recording and merging have a program of their own, `tests/killing.py`. Prints
what happened as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path

import gguf
import safetensors.torch
import torch
import transformers.modeling_utils

from breaking.steps import COMMANDS, NEEDS, begin, imports, model
from neuroglot.errors import NeuroglotWarning
from neuroglot.storage.atomic import DRAFT

WORKPLACES = (".tuning", ".shrinking", ".sampling")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point, moment, tell):
    """Have the `point`-th call that changes the disk be this process's last; with none, count them into a file."""
    calls = 0

    def deadly(function, place=None):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if tell is not None:
                with open(tell, "w") as file:
                    file.write(str(calls))
            if calls != point:
                return function(*arguments, **named)
            if moment != "before":
                function(*arguments, **named)
            if moment == "middle" and place is not None:
                os.truncate(arguments[place], os.path.getsize(arguments[place]) // 2)
            die()

        return call

    safetensors.torch.save_file = deadly(safetensors.torch.save_file, 1)
    transformers.modeling_utils.safe_save_file = deadly(transformers.modeling_utils.safe_save_file, 1)
    torch.save = deadly(torch.save, 1)
    gguf.GGUFWriter.close = deadly(gguf.GGUFWriter.close)
    Path.write_text = deadly(Path.write_text, 0)
    Path.unlink, Path.mkdir = deadly(Path.unlink), deadly(Path.mkdir)
    os.replace, os.rename, os.fsync = deadly(os.replace), deadly(os.rename), deadly(os.fsync)
    shutil.rmtree = deadly(shutil.rmtree)


def child(name, folder, point=0, moment="", tell=None):
    """Run a command in a process of its own; whether it was killed."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            warnings.simplefilter("ignore", NeuroglotWarning)
            os.dup2(os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            if point or tell:
                arm(point, moment, tell)
            COMMANDS[name](folder)
        except BaseException as error:
            print(f"{name}: {error!r}", file=sys.stdout, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{name}, {moment} call {point}"
    return os.WIFSIGNALED(status)


def tree(folder):
    """Every file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fresh(root, name, before):
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder, symlinks=True)
    return folder


def check(name, folder, right, volatile, about):
    """The directory is that of a command that was never stopped."""
    found = tree(folder)
    drafts = [path for path in found if DRAFT in path or any(kind in path for kind in WORKPLACES)]
    assert not drafts, f"{about}: {drafts}"
    lost, more = sorted(right.keys() - found.keys()), sorted(found.keys() - right.keys())
    assert not lost and not more, f"{about}: lost {lost}, more {more}"
    other = [path for path in right if path not in volatile and found[path] != right[path]]
    assert not other, f"{about}: other bytes in {other}"


def main(root, wanted, seed, part, names):
    torch.set_num_threads(1)
    dice = random.Random(seed)
    first, step = map(int, part.split("/"))
    model.fingerprint, model.tokenizer_fingerprint  # noqa: B018 (kept for all children)
    imports(names)
    begin(root)
    before, killed, calls = root / "before", Counter(), {}
    each = wanted and max(1, wanted // len(names))
    needed = {need for name in names for need in NEEDS.get(name, ())}
    for name in COMMANDS:
        if name not in names:
            if name in needed:
                child(name, before)
            continue
        folder = fresh(root, "now", before)
        child(name, folder, tell=root / "calls")
        calls[name] = int((root / "calls").read_text())
        right = tree(folder)
        child(name, fresh(root, "now", before))
        volatile = {path for path, data in tree(folder).items() if right.get(path) != data}
        points = [(point, moment) for point in range(1, calls[name] + 1) for moment in ("before", "middle", "after")]
        chosen = dice.sample(points, min(each, len(points))) if each else points
        for point, moment in chosen[first - 1 :: step]:
            folder = fresh(root, "now", before)
            killed[name] += child(name, folder, point, moment)
            if dice.random() < 0.3:  # and while it goes on, too
                killed[name] += child(name, folder, dice.randint(1, calls[name]), "middle")
            child(name, folder)
            check(name, folder, right, volatile, f"{name}, {moment} call {point}")
            child(name, folder)  # what is finished is taken as it is
            check(name, folder, right, volatile, f"{name} again, after {moment} call {point}")
        shutil.rmtree(before)
        shutil.move(root / "now", before)
    print(json.dumps({"killed": killed, "calls": calls}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:] or list(COMMANDS))
