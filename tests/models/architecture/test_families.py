"""Families of one's own: in Python, in a file, by entry point."""

import re
import sys
from contextlib import contextmanager
from pathlib import Path

import every_type
import pytest
import tiny
import torch
from commands import neuroglot, refused
from transformers.activations import ACT2FN

import neuroglot as ng
from neuroglot.models.architecture import families
from neuroglot.models.architecture.families import declare, declared, read_families
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.description import describe
from neuroglot.plugins import plugins

PAGE = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
(TEXT,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
"""The example as it stands on the page."""


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
    ("wrong", "sentence"),
    [
        ({"activation": ""}, "its activation has 16 numbers a token where 24 enter it"),
        (
            {"activation": "self_attn"},
            "taken for the FFNs of llama, such as .*, cannot be read or written there",
        ),
        ({"gate": "input_layernorm"}, "input_layernorm is a LlamaRMSNorm and no projection"),
        ({"up": "mlp"}, "mlp is a LlamaMLP and no projection"),
        ({"gate": "self_attn.q_proj"}, "does not follow its row of the gate-projection"),
        ({"layers": ""}, "is not built as its family is"),
    ],
)
def test_what_is_declared_of_another_kind_is_one_sentence(wrong, sentence):
    right = {"activation": "mlp.act_fn", "down": "mlp.down_proj", "up": "mlp.up_proj", "gate": "mlp.gate_proj"}
    network = tiny.network(head_dim=12)  # so that queries are as wide as the FFN
    declare(families.Family(("llama",), **right | wrong))
    with pytest.raises(ng.NeuroglotError, match=sentence) as caught:
        ng.Model(network, tiny.tokenizer())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no table"),
        ("family = 3", "has no table"),
        ("family = [3]", "has no table"),
        ("[[family]]\ntypes = ['x']", "lacks activation"),
        (TEXT + "colour = 'red'", "cannot have colour"),
        (TEXT.replace('["olmo3"]', '"olmo3"'), "cannot have types"),
        (TEXT.replace('["olmo3"]', "[]"), "cannot have types"),
        (TEXT.replace('["olmo3"]', "[3]"), "cannot have types"),
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


def test_the_page_s_example_is_what_doctor_then_goes_by(tmp_path, monkeypatch, capsys):
    source, path = tmp_path / "model", tmp_path / "families.toml"
    ng.Model(every_type.network("olmo3"), tiny.tokenizer()).save(source)
    assert "olmo3, discovered" in neuroglot("doctor", source)
    path.write_text(TEXT)
    said = neuroglot("--family", path, "doctor", source)
    assert "olmo3, declared by you" in said and "4 of 48 neurons" in said
    path.write_text(TEXT.replace("olmo3", "olmo4"))
    families._own.clear()
    declare(*read_families(path))
    with pytest.warns(ng.NeuroglotWarning, match="of the types olmo4; this model is of type olmo3"):
        ng.load_model(source)
    path.write_text(TEXT.replace("mlp.gate_proj", "mlp.up_proj"))  # as if one matrix held both
    families._own.clear()
    said = refused(monkeypatch, capsys, "--family", path, "doctor", source)
    assert "its up-projection gives 24 numbers a token where 48 enter it" in said
    path.write_text(TEXT.replace("mlp.act_fn", "mlp.nothing"))
    families._own.clear()
    said = refused(monkeypatch, capsys, "--family", path, "doctor", source)
    assert "This olmo3 model is not built as its family is" in said and "nothing" in said


@contextmanager
def installed(place, monkeypatch, *entries):
    """A package as pip installs it: its metadata, and modules of its own, on the path."""
    about = place / "neuroglot_olmo-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: neuroglot-olmo\nVersion: 1\n")
    (about / "entry_points.txt").write_text("\n".join([f"[{families.GROUP}]", *entries, ""]))
    monkeypatch.syspath_prepend(place)
    plugins.cache_clear()
    try:
        yield
    finally:
        monkeypatch.undo()
        plugins.cache_clear()
        families._said.clear()
        families._own.clear()


def test_a_package_offers_a_family(tmp_path, monkeypatch):
    (tmp_path / "olmo_family.py").write_text(
        "from neuroglot.models.architecture.families import Family\n"
        "olmo3 = wrong = Family(('olmo3',), 'mlp.act_fn', 'mlp.down_proj', 'mlp.up_proj', 'mlp.gate_proj')\n"
    )
    with installed(tmp_path, monkeypatch, "olmo3 = olmo_family:olmo3", "wrong = olmo_family:wrong"):
        assert families.declaration("olmo3") == (declared("olmo3"), "neuroglot-olmo")
        assert describe(ng.Model(every_type.network("olmo3"), tiny.tokenizer())).found == "declared by neuroglot-olmo"
        sys.modules["olmo_family"].wrong = 3
        with pytest.warns(ng.NeuroglotWarning, match="neuroglot-olmo offers wrong in neuroglot.families"):
            assert families.declaration("olmo3")
        assert declared("llama") in families.FAMILIES and declared("unheard_of") is None  # it is said once
        with pytest.raises(ng.NeuroglotError, match="neuroglot-olmo offers wrong in neuroglot.families"):
            declared("wrong")
    sys.modules.pop("olmo_family", None)


def test_a_package_that_breaks_blocks_no_other_model(tmp_path, monkeypatch):
    with installed(tmp_path, monkeypatch, "olmo3 = no_such_module:olmo3"):
        with pytest.warns(ng.NeuroglotWarning, match="neuroglot-olmo offers olmo3 and cannot be loaded .*uninstall"):
            assert tiny.model("gpt2").layers == 3
        network = every_type.network("olmo3")
        with pytest.raises(ng.NeuroglotError, match="neuroglot-olmo offers olmo3 and cannot be loaded"):
            find_ffns(network)
        declare(families.Family(("olmo3",), "mlp.act_fn", "mlp.down_proj", "mlp.up_proj", "mlp.gate_proj"))
        assert find_ffns(network)  # what the user declares comes first


@pytest.mark.parametrize(
    "name", ["relu", "relu2", "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "xielu"]
)
def test_where_an_activation_is_above_zero(name):
    """As the page's table says."""
    values = torch.linspace(-8, 8, 1601)
    with torch.no_grad():
        active = ACT2FN[name].float()(values) > 0
    expected, clear = values > 1e-9, (values + 2.4).abs() > 0.1
    if name == "xielu":
        expected |= values < -2.4
    assert torch.equal(active[clear], expected[clear])
