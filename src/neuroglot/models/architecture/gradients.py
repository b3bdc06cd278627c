"""Attention through which gradients go."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["attention_with_gradients"]


@contextmanager
def attention_with_gradients() -> Iterator[None]:
    """Inside the block no attention is computed by cuDNN: its gradients are not always numbers.

    On an H100, in bfloat16, under a mask and at 64, 192, 320 … tokens, the gradient of a query is NaN where the
    logsumexp of its scores is below -88.7 (pytorch issue 196678). Three layers of Qwen2.5 0.5B have such heads. The
    forward pass is right, and so are the kernels that PyTorch chooses instead. A gradient comes from the kernel of the
    forward pass, so that is what must be in the block.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
