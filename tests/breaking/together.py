"""Two commands in one run at once, each in a process of its own: `python together.py DIRECTORY PAIR…`.

A pair is two names of `steps.COMMANDS` with a plus between them; without any, it is every pairing. The run must then be
the one in which one of them followed the other: each file and each section of run.json has the bytes that it has after
one of the two orders. One that refuses since the other is at the same work is called again, as its sentence says. A
report is of the moment at which it is written: it is written once more before the run is looked at. Prints how many
pairings were tried as JSON.
"""

import itertools
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch

from breaking.kills import WORKPLACES
from breaking.steps import COMMANDS, NEEDS, begin, imports, model
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.storage.atomic import DRAFT

WAIT = 3


def start(name, folder, gate=None):
    """Begin a command in a process; it waits for the gate to be opened."""
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        try:
            warnings.simplefilter("ignore", NeuroglotWarning)
            os.dup2(os.open(folder.parent / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            if gate is not None:
                os.close(gate[1])
                os.read(gate[0], 1)
            COMMANDS[name](folder)
        except NeuroglotError as error:
            print(f"{name}: {error!r}", flush=True)
            os._exit(WAIT if "by another process; wait until it is done" in str(error) else 1)
        except BaseException as error:
            print(f"{name}: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def ended(pid, about, may_wait=False):
    """Wait for its end; whether it did its work, rather than ask to be called again after another process."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in ((0, WAIT) if may_wait else (0,)), about
    return os.WEXITSTATUS(status) == 0


def tree(folder):
    """Every file by its path; of a run.json each section."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for run in [path for path in found if path.endswith("run.json")]:
        for section, value in json.loads(found.pop(run)).items():
            parts = value if isinstance(value, dict) else {"": value}
            found |= {f"{run} {section} {name}": part for name, part in parts.items()}
    return found


def fresh(root, name, before):
    shutil.rmtree(root / name, ignore_errors=True)
    return shutil.copytree(before, root / name, symlinks=True)


def in_order(root, before, names):
    folder = fresh(root, "now", before)  # the same place: some files say where they lie
    for name in names:
        ended(start(name, folder), f"{names}: {name}")
    return tree(folder)


def at_once(root, before, names, last=()):
    folder = fresh(root, "now", before)
    gate = os.pipe()
    pids = [start(name, folder, gate) for name in names]
    os.close(gate[0])
    os.close(gate[1])  # both read the end of the pipe now
    done = [ended(pid, f"{name} beside {names}", may_wait=True) for name, pid in zip(names, pids, strict=True)]
    again = [name for name, its in zip(names, done, strict=True) if not its]  # as they were asked to in a sentence
    for name in (*again, *last):
        ended(start(name, folder), f"{name} after {names}")
    return tree(folder)


def main(root, pairs):
    torch.set_num_threads(1)
    model.fingerprint, model.tokenizer_fingerprint  # noqa: B018 (kept for all children)
    imports({name for pair in pairs for name in pair})
    begin(root)
    bare = root / "before"
    ended(start("identify", bare), "identify")
    grouped = shutil.copytree(bare, root / "grouped")
    ended(start("experts", grouped), "experts")
    unstable = {}
    for pair in pairs:
        before = grouped if any("experts" in NEEDS.get(name, ()) for name in pair) else bare
        last = ["report"] if "report" in pair else []
        orders = [in_order(root, before, [*pair, *last]), in_order(root, before, [*pair[::-1], *last])]
        for name in pair:  # files in which a time lies
            if (name, *last) not in unstable:
                first, again = (in_order(root, before, [name, *last]) for _ in range(2))
                unstable[name, *last] = {path for path in first if first[path] != again.get(path)}
        found = at_once(root, before, pair, last)
        about = " + ".join(pair)
        drafts = [path for path in found if DRAFT in path or any(kind in path for kind in WORKPLACES)]
        assert not drafts, f"{about}: {drafts}"
        assert set(found) in [set(order) for order in orders], f"{about}: {[set(found) ^ set(o) for o in orders]}"
        moving = unstable[pair[0], *last] | unstable[pair[1], *last]
        other = [path for path in found if path not in moving and found[path] not in [o.get(path) for o in orders]]
        assert not other, f"{about}: other bytes in {other}"
    print(json.dumps({"pairs": len(pairs)}))


if __name__ == "__main__":
    every = itertools.combinations_with_replacement(COMMANDS, 2)
    main(Path(sys.argv[1]), [tuple(text.split("+")) for text in sys.argv[2:]] or list(every))
