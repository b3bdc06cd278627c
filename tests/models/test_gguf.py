"""GGUF read whole, key by key, or refused: files written here with the gguf package."""

from contextlib import suppress

import gguf_files
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.models import gguf
from neuroglot.models.gguf_header import Header, read_header
from neuroglot.models.gguf_keys import ARCHITECTURES, config_of
from neuroglot.models.gguf_tokenizer import check_tokenizer, tokenizer_of

IDS = torch.randint(0, 250, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def network():
    return gguf_files.network("llama")


def logits(network):
    with torch.no_grad():
        return network(IDS).logits


@pytest.mark.parametrize("name", gguf_files.KINDS)
@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
def test_the_same_weights_from_a_checkpoint_and_from_gguf_give_the_same_recording(tmp_path, name):
    made = gguf_files.network(name)
    ours = ng.Model(made, tiny.tokenizer())
    theirs = ng.load_model(gguf_files.write(tmp_path / "m.gguf", name, made), device="cpu")
    assert torch.allclose(logits(theirs.network), logits(made), atol=1e-4, rtol=1e-4)
    assert theirs.begin == ours.begin == (256,)
    one, two = (ng.record(m, tiny.corpus(4), block=32, progress=False) for m in (ours, theirs))
    for statistic in one.sums:
        assert torch.allclose(one.sum(statistic), two.sum(statistic), rtol=1e-4, atol=1e-4)


def test_every_architecture_that_is_read_is_tested():
    assert {kind.architecture or name for name, kind in gguf_files.KINDS.items()} == ARCHITECTURES.keys()


@pytest.mark.parametrize(("alignment", "parts"), [(64, 1), (None, 2), (128, 3)])
def test_a_file_aligned_otherwise_or_split_is_the_same_model(tmp_path, network, alignment, parts):
    whole = ng.load_model(gguf_files.write(tmp_path / "whole.gguf", "llama", network), device="cpu")
    other = gguf_files.write(tmp_path / "m.gguf", "llama", network, alignment=alignment, parts=parts)
    assert ng.load_model(other, device="cpu").fingerprint == whole.fingerprint


def test_parts_that_do_not_make_a_whole_are_refused(tmp_path, network):
    first = gguf_files.write(tmp_path / "m.gguf", "llama", network, parts=2)
    second = first.with_name("m-00002-of-00002.gguf")
    with pytest.raises(ng.NeuroglotError, match="give the first"):
        ng.load_model(second)
    first.with_name("alone.gguf").write_bytes(first.read_bytes())
    with pytest.raises(ng.NeuroglotError, match="part 1 of 2"):
        ng.load_model(first.with_name("alone.gguf"))
    good = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(ng.NeuroglotError, match="part 1 of 2"):
        ng.load_model(first)
    second.write_bytes(good[:-64])
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        ng.load_model(first)
    second.unlink()
    with pytest.raises(ng.NeuroglotError, match="is missing"):
        ng.load_model(first)
    second.write_bytes(good)
    ng.load_model(first, device="cpu")
    # another second part is another model, though the first is the same
    gguf_files.write(tmp_path / "m.gguf", "llama", network, parts=2, without=("output_norm.weight",))
    with pytest.raises(ng.NeuroglotError, match="lacks"):
        ng.load_model(first)


@pytest.mark.parametrize("lacking", ["blk.1.ffn_up.weight", "output_norm.weight", "token_embd.weight"])
def test_a_file_that_lacks_a_tensor_is_refused_and_not_cached(tmp_path, network, lacking):
    file = gguf_files.write(tmp_path / "m.gguf", "llama", network, without=(lacking,))
    with pytest.raises(ng.NeuroglotError, match="lacks"):
        ng.load_model(file)
    assert not [path for path in (tmp_path / "cache" / "models").glob("*") if path.is_dir()]


REFUSED = [
    ("llama", {"logit_scale": 2.0}),
    ("llama", {"rope.new_trick": 1}),
    ("llama", {"attention.value_length": 2}),
    ("llama", {"rope.dimension_count": 2}),
    ("llama", {"rope.scaling.type": "longrope"}),
    ("llama", {"rope.scaling.attn_factor": 1.5}),
    ("llama", {"attention.sliding_window": 4}),
    ("llama", {"attention.head_count_kv": [2, 2, 1]}),
    ("llama", {"attention.sliding_window_pattern": 2}),
    ("llama 3", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    ("qwen2", {"attn_logit_softcapping": 30.0}),
    ("qwen2", {"feed_forward_length": [24, 16, 24]}),
    ("phi3", {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}),
    ("falcon", {"attention.head_count_kv": 2}),
    ("bloom", {"feed_forward_length": 32}),
    ("bloom", {"attention.max_alibi_bias": 4.0}),
    ("gpt2", {"attention.head_count_kv": 2}),
    ("stablelm", {"use_parallel_residual": True}),
    ("gemma3", {"attention.sliding_window_pattern": [True]}),
]


@pytest.mark.parametrize(("name", "keys"), REFUSED)
def test_a_value_that_would_not_be_honoured_is_refused(tmp_path, name, keys):
    file = gguf_files.write(tmp_path / "m.gguf", name, gguf_files.network(name), extra=keys)
    with pytest.raises(ng.NeuroglotError, match="may change what the model computes"):
        ng.load_model(file)


def test_other_scalings_of_frequencies_are_refused(tmp_path, network, monkeypatch):
    monkeypatch.setattr(gguf_files.KINDS["llama"], "factors", torch.tensor([1.0, 3.0]).numpy())
    with pytest.raises(ng.NeuroglotError, match="not Llama 3's"):
        ng.load_model(gguf_files.write(tmp_path / "m.gguf", "llama", network))


@pytest.mark.parametrize("architecture", ["lfm2", "qwen35", "gemma4", "gpt-oss", "mamba", "t5", "minimax-m2"])
def test_architectures_that_are_not_read_say_what_to_do(tmp_path, network, monkeypatch, architecture):
    header = read_header(gguf_files.write(tmp_path / "m.gguf", "llama", network))
    keys = header.keys | {"general.architecture": architecture}
    with pytest.raises(ng.NeuroglotError, match="give the checkpoint that it was made from"):
        config_of(Header(header.path, keys, header.tensors))
    with pytest.raises(ng.NeuroglotError, match="choose a dense model"):
        config_of(Header(header.path, keys | {f"{architecture}.expert_count": 8}, header.tensors))


def read_or_refused(header, with_tokenizer=False):
    """The config, or None if it was refused; any other exception is a fault."""
    try:
        check_tokenizer(header)
        config = config_of(header)
        if with_tokenizer:
            tokenizer_of(header)
    except ng.NeuroglotError:
        return None
    return config


@pytest.mark.parametrize("name", ["llama", "gemma3 scaled", "bloom", "stablelm"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_key_of_any_value_is_honoured_or_refused_in_one_sentence(tmp_path, name):
    header = read_header(gguf_files.write(tmp_path / "m.gguf", name, gguf_files.network(name)))
    whole = config_of(header)
    for key in header.keys:
        for value in ("x", 0, -1, 2**33, 1.5, float("nan"), [], [1, 2], ["a"], True, None):
            keys = {other: said for other, said in header.keys.items() if other != key}
            changed = Header(header.path, keys | ({} if value is None else {key: value}), header.tensors)
            if "general.architecture" not in changed.keys:
                continue
            config = read_or_refused(changed, with_tokenizer=key.startswith("tokenizer."))
            if config is None:
                continue
            if key.startswith(header.architecture) and value is not None:
                assert config != whole or value == header.keys[key], (key, value)


@pytest.mark.parametrize(("start", "stop"), [(0, 4), (4, 24), (24, 200), (200, 2000), (2000, 9000)])
def test_a_damaged_header_is_one_sentence(tmp_path, network, start, stop):
    good = gguf_files.write(tmp_path / "m.gguf", "llama", network).read_bytes()
    draw = torch.Generator().manual_seed(start)
    for _ in range(12):
        damaged = bytearray(good)
        damaged[int(torch.randint(start, stop, (1,), generator=draw))] ^= 1 << int(
            torch.randint(8, (1,), generator=draw)
        )
        file = tmp_path / "damaged.gguf"
        file.write_bytes(damaged)
        with suppress(ng.NeuroglotError):
            read_or_refused(read_header(file))


def test_a_mixture_is_refused_before_it_is_converted(tmp_path, network, monkeypatch):
    file = gguf_files.write(tmp_path / "m.gguf", "llama", network, extra={"expert_count": 8})
    with pytest.raises(ng.NeuroglotError, match="mixture of experts"):
        gguf.converted(file)
