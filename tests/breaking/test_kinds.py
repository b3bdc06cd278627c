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
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.storage.atomic import read_json
from neuroglot.storage.tables import load_table

CALLED = list(COMMANDS) if WHOLE else ["identify", "align", "answer", "lens"]  # which take little time
PARTS = attempts(1, 8)


def from_json(path):
    if read_json(path) is None:
        raise ng.NeuroglotError("made again")


def of_table(path):
    load_table(path.with_name(path.name.removeprefix(".").removesuffix(".sha256")))


def samples_of(path):
    ng.Samples.load(path.parent)


RUN = r"(run|other)/"
EVIDENCE = {
    RUN + r"(.*/)?recording\.safetensors": ng.Recording.load,
    RUN + r"(neurons|comparison/defaults)/.*\.safetensors": ng.NeuronSet.load,
    RUN + r"(.*/)?partition[^/]*\.safetensors": ng.experts.Partition.load,
    RUN + r"lens/lens\.safetensors": Lens.load,
    RUN + r"(.*/)?(samples\.json|vectors\.npy|states\.npy)": samples_of,
    RUN + r"perturbation/.*\.json": Perturbation.load,
    RUN + r"(comparison|pair)/comparison\.json": Comparison.load,
    RUN + r"(.*/)?text/[^/]+\.i32": _tokens.__wrapped__,
    r"(run|other|evolution|fixed)/.*\.json": from_json,  # what is damaged is made again
    r"(run|other|evolution|fixed)/.*\.csv(\.sha256)?": of_table,
    r"(recipe|direction|recipes/\w+|fixed/recipe)\.safetensors": ng.Recipe.load,
    r".*/(tuning|neuroglot|neuroglot_shrink|\..*\.sums)\.json": from_json,  # a result that says what it was made from
}
"""Files that are read back as evidence, by their names, and what reads them."""
NO_EVIDENCE = [
    RUN + r"run\.json",  # edited by hand: checked, and without a digest
    r".*/?\.[^/]*lock", r".*/\.lock",
    RUN + r"(figures/.*|report\.html)", r"evolution/.*\.(png|pdf|html)",  # read by people
    r"asked[^/]*/.*",  # text that was given
    RUN + r"(.*/)?seconds\.json",  # how long cells took
    # a checkpoint, as transformers writes it: a recording's fingerprint tells it from another
    r"(adapter|baked|healed|mixture|pruned|refitted|remedied|shrunk|tuned|cache/models/[^/]*)/.*(config|tokenizer)\.json",
    r"(adapter|baked|healed|mixture|pruned|refitted|remedied|shrunk|tuned|cache/models/[^/]*)/(adapter_)?model\.safetensors",
    r"adapter/README\.md",
    r".*\.gguf", r"ranking\.jsonl", r"clas/.*",  # for other programs
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    with notes():
        begin(root)
        for name in CALLED:
            COMMANDS[name](root / "before")
    return root / "before"


def reader(name):
    if any(re.fullmatch(kind, name) for kind in NO_EVIDENCE):
        return None
    found = [read for kind, read in EVIDENCE.items() if re.fullmatch(kind, name)]
    assert found, f"{name} is of no known kind: say what reads it, or why its bytes are no evidence"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_bit_in_any_file_of_a_run_is_noticed(folder, tried, part):
    dice = random.Random(part)
    kinds, bits, files = set(), 0, 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file())[part::PARTS]:
        read = reader(path.relative_to(folder).as_posix())
        if read is None:
            continue
        good = path.read_bytes()
        with notes():
            read(path)
        kinds.add(read)
        files += 1
        for bit in dice.sample(range(8 * len(good)), min(attempts(6, 400), 8 * len(good))):
            bits += 1
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with notes(), pytest.raises(ng.NeuroglotError):
                read(path)
        path.write_bytes(good)
    tried("flipped bits in a run", bits)
    tried("files of a run", files)
    assert len(kinds) >= attempts(6, 3)
