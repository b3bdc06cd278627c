"""What all layers are given is copied to a device once a pass."""

import pickle

import torch
from torch import nn

from neuroglot.models.architecture.devices import SharedCopies


def test_a_tensor_is_copied_once_until_it_changes():
    there = torch.device("meta")  # another device that every machine has
    shared = SharedCopies(there)
    mask, positions = torch.ones(2, 3), (torch.ones(3), torch.ones(3))

    def given(states):
        (arrived,), named = shared(nn.Identity(), (states,), {"mask": mask, "positions": positions, "flag": None})
        return arrived, named["mask"], *named["positions"], named["flag"]

    first, second = given(torch.zeros(4)), given(torch.zeros(4, device=there))
    assert all(part.device == there for part in (*first[:4], *second[:4]))
    assert first[0] is not second[0]
    assert all(one is other for one, other in zip(first[1:], second[1:], strict=True))
    mask.add_(1)
    third = given(torch.zeros(4))
    assert third[1] is not first[1]
    assert third[2] is first[2]
    del mask
    mask = torch.ones(2, 3)
    assert given(torch.zeros(4))[1] is not third[1]
    assert pickle.loads(pickle.dumps(shared)).device == there
