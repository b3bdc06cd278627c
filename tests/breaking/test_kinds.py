"""Every kind of file that a run and the caches hold is known, and a flipped bit in it never gives another number.

The kinds are found by walking a run in which every command was called, so that a new one cannot be forgotten.
"""

import random
import re

import pytest
from commands import notes

import neuroglot as ng
from breaking.attempts import WHOLE, attempts
from breaking.steps import COMMANDS, begin
from neuroglot.artifacts.examples import _tokens
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.evaluate.ablation.perturbation import Perturbation
from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.storage.atomic import read_json
from neuroglot.storage.tables import load_table

CALLED = ["identify", "align", "answer", "lens"]
MORE = ["perturb random", "compare", "experts", "perturb", "prune", "report", "evolve"]  # which take longer


def from_json(path):
    if read_json(path) is None:
        raise ng.NeuroglotError("made again")


def of_table(path):
    load_table(path.with_name(path.name.removeprefix(".").removesuffix(".sha256")))


def samples_of(path):
    ng.Samples.load(path.parent)


EVIDENCE = {
    r"run/(.*/)?recording\.safetensors": ng.Recording.load,
    r"run/neurons/.*\.safetensors": ng.NeuronSet.load,
    r"run/(.*/)?partition[^/]*\.safetensors": ng.experts.Partition.load,
    r"run/lens/lens\.safetensors": Lens.load,
    r"run/(.*/)?(samples\.json|vectors\.npy|states\.npy)": samples_of,
    r"run/perturbation/.*\.json": Perturbation.load,
    r"run/comparison/comparison\.json": Comparison.load,
    r"run/(.*/)?text/[^/]+\.i32": _tokens.__wrapped__,
    r"(run|evolution)/.*\.json": from_json,  # what is damaged is made again
    r"(run|evolution)/.*\.csv(\.sha256)?": of_table,
}
"""Files that are read back as evidence, by their names, and what reads them."""
NO_EVIDENCE = [
    r"run/run\.json",  # edited by hand: checked, and without a digest
    r".*/?\.[^/]*lock", r".*/\.lock",
    r"run/(figures/.*|report\.html)", r"evolution/.*\.(png|pdf|html)",  # read by people
    r"asked/.*",  # text that was given
    r"run/(.*/)?seconds\.json",  # how long cells took
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    with notes():
        begin(root)
        for name in [*CALLED, *(MORE if WHOLE else [])]:
            COMMANDS[name](root / "before")
    return root / "before"


def reader(name):
    if any(re.fullmatch(kind, name) for kind in NO_EVIDENCE):
        return None
    found = [read for kind, read in EVIDENCE.items() if re.fullmatch(kind, name)]
    assert found, f"{name} is of no known kind: say what reads it, or why its bytes are no evidence"
    return found[0]


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_of_a_run_is_noticed(folder):
    dice = random.Random(0)
    kinds = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        read = reader(path.relative_to(folder).as_posix())
        if read is None:
            continue
        good = path.read_bytes()
        with notes():
            read(path)
        kinds.add(read)
        for bit in dice.sample(range(8 * len(good)), min(attempts(6, 400), 8 * len(good))):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with notes(), pytest.raises(ng.NeuroglotError):
                read(path)
        path.write_bytes(good)
    assert len(kinds) >= attempts(6, 8)
