"""The Triton kernels against plain torch, by Triton's own interpreter; skipped where Triton is not installed."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import contextlib

import torch

from neuroglot.recording.statistics import kernels, reductions

torch.cuda.device = lambda device: contextlib.nullcontext()  # the interpreter reads the memory of the host
torch.manual_seed(0)
activation, hidden = (torch.randn(3, 131, 257)[:, 1:] for _ in range(2))
for names in ([name] for name in reductions.SUMS), [["hidden", "active"], list(reductions.SUMS)]:
    for some in names:
        expected = [reductions.SUMS[name](activation, hidden) for name in some]
        for one, other in zip(kernels.sum_tokens(activation, hidden, some), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
scores = torch.randn(37, 700)
scores[::2] = scores[::2].round()
for size in (1, 70, 700):
    assert torch.equal(kernels.count_highest(scores, size), reductions.count_highest(scores, size))
scores[7] = 0.1  # whose mean need not be 0.1
one, other = torch.zeros(37, 900), torch.zeros(37, 900)
kernels.standardise(scores, one[:, 100:800])
reductions.standardise(scores.double(), other[:, 100:800])
torch.testing.assert_close(one, other)
assert one.any() and not one[7].any()
values = torch.randn(3, 801, 130)[:, 1:]
values[:, ::2] = values[:, ::2].round()
kernels.KEPT_ROWS = 512
for k in (1, 5, 7):
    keys = [torch.zeros(130, k, dtype=torch.int64) for _ in range(2)]
    for batch, some in enumerate((values[:, :10], values[:, 10:], values[:1, :3] + 9)):
        seen = sum(each.shape[0] * each.shape[1] for each in (values[:, :10], values[:, 10:])[:batch])
        keys = [module.keep_highest(some, mine, seen) for module, mine in zip((kernels, reductions), keys)]
        assert torch.equal(*keys)
    assert keys[0].all()
"""


def test_kernels_equal_the_reference_as_interpreted():
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
