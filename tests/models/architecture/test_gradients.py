"""Whatever goes back through a model goes back through attention whose gradients are numbers."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune


@pytest.fixture(autouse=True)
def cudnn_is_chosen():
    """As on an H100; on a CPU nothing asks for it."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def watched(model):
    """Whether cuDNN may compute attention, at each pass with gradients and each without."""
    seen = {True: set(), False: set()}
    for layer in model.network.model.layers:
        layer.self_attn.register_forward_hook(
            lambda *_: seen[torch.is_grad_enabled()].add(torch.backends.cuda.cudnn_sdp_enabled())
        )
    return seen


def test_tuning_does_not_ask_cudnn(tmp_path):
    model = tiny.model("qwen2")
    seen = watched(model)
    pairs = [Pair("the cats", "sat" * size) for size in (1, 4)]  # of two lengths: under a mask
    tune(model, pairs, tmp_path / "out", TuneSettings(epochs=1, batch=2), progress=False)
    assert seen[True] == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_recording_gradients_does_not_ask_cudnn_and_recording_without_them_may():
    model = tiny.model("qwen2")
    seen = watched(model)
    ng.record(model, tiny.corpus(2), block=16, tokens=32, statistics=["attribution", "relevance"], progress=False)
    assert seen[True] == {False}
    ng.record(model, tiny.corpus(2), block=16, tokens=32, statistics=["active"], progress=False)
    assert seen[False] >= {True}
    assert torch.backends.cuda.cudnn_sdp_enabled()
