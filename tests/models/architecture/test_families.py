"""Families of one's own: in Python, in a file, by entry point."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.models.architecture import families
from neuroglot.models.architecture.families import declare, declared, read_families
from neuroglot.models.architecture.find import find_ffns

TEXT = """
[[family]]
types = ["olmo3"]
activation = "mlp.act_fn"
down = "mlp.down_proj"
up = "mlp.up_proj"
gate = "mlp.gate_proj"
"""


@pytest.fixture(autouse=True)
def none_left(monkeypatch):
    monkeypatch.setattr(families, "_own", [])


def test_a_file_declares_what_is_then_found(tmp_path):
    path = tmp_path / "families.toml"
    path.write_text(TEXT)
    assert declared("olmo3") is None
    declare(*read_families(path))
    assert declared("olmo3").gated and declared("llama").gated


def test_a_wrong_declaration_is_refused_by_the_proof():
    wrong = families.Family(("llama",), "mlp.act_fn", down="mlp.down_proj", up="mlp.gate_proj", gate="mlp.up_proj")
    declare(wrong)
    with pytest.raises(ng.NeuroglotError, match="was taken for the down-projection of a gated FFN, but what enters it"):
        ng.Model(tiny.network(rms_norm_eps=2e-6), tiny.tokenizer())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no table"),
        ("family = 3", "has no table"),
        ("[[family]]\ntypes = ['x']", "lacks activation"),
        (TEXT + "colour = 'red'", "cannot have colour"),
        (TEXT.replace('["olmo3"]', '"olmo3"'), "cannot have types"),
        ("[[family", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "families.toml"
    path.write_text(text)
    with pytest.raises(ng.NeuroglotError, match=sentence):
        read_families(path)
    with pytest.raises(ng.NeuroglotError):
        read_families(tmp_path / "nowhere.toml")


def test_a_kept_order_of_a_fused_matrix_computes_the_same():
    network = tiny.network("phi3")
    tokens = torch.arange(6)[None]
    with torch.no_grad():
        expected = network(tokens).logits
        for ffn in find_ffns(network):
            ffn.keep(torch.randperm(ffn.neurons, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(network(tokens).logits, expected, rtol=1e-4, atol=1e-5)
