"""GGUF read whole, key by key, or refused: files written here with the gguf package."""

import gguf
import pytest
import tiny
import torch

import neuroglot as ng

KEYS = {"context_length": 64, "embedding_length": 16, "block_count": 2, "feed_forward_length": 24,
        "attention.head_count": 2, "attention.head_count_kv": 2, "rope.dimension_count": 8}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))


def permuted(weight, heads=2):
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(path, network, *, without=(), alignment=None, extra=None):
    """A Llama as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, value in KEYS.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", network.config.rms_norm_eps)
    for name, value in (extra or {}).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(name, value)
    vocabulary = tiny.tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.get))
    writer.add_token_types([1] * 256 + [3, 3])
    writer.add_token_merges([])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(257)
    writer.add_add_bos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in network.state_dict().items():
        stem, _, kind = name.rpartition(".")
        values = weight.numpy().copy()
        if "q_proj" in name or "k_proj" in name:
            values = permuted(values)
        called = f"{names.get_name(stem)}.{kind}"
        if called not in without:
            writer.add_tensor(called, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def network():
    return tiny.network(num_hidden_layers=2, max_position_embeddings=64)


@pytest.mark.parametrize("alignment", [None, 64])
def test_the_same_weights_from_a_checkpoint_and_from_gguf_give_the_same_recording(tmp_path, network, alignment):
    ours = ng.Model(network, tiny.tokenizer())
    theirs = ng.load_model(write(tmp_path / "m.gguf", network, alignment=alignment), device="cpu")
    assert theirs.begin == ours.begin == (256,)
    assert theirs.fingerprint == ours.fingerprint
    one, two = (ng.record(m, tiny.corpus(), block=16, progress=False) for m in (ours, theirs))
    for name in one.sums:
        assert torch.equal(one.sum(name), two.sum(name))


def test_what_cannot_be_honoured_is_refused(tmp_path, network):
    lacking = write(tmp_path / "lacking.gguf", network, without=("blk.1.ffn_up.weight",))
    with pytest.raises(ng.NeuroglotError, match="lacks weights"):
        ng.load_model(lacking)
    for name, value in {"llama.logit_scale": 2.0, "llama.expert_count": 8, "llama.rope.new_trick": 1}.items():
        with pytest.raises(ng.NeuroglotError, match="may change what the model computes"):
            ng.load_model(write(tmp_path / f"{name}.gguf", network, extra={name: value}))
    short = tmp_path / "short.gguf"
    short.write_bytes((tmp_path / "lacking.gguf").read_bytes()[:-100])
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        ng.load_model(short)
    part = tmp_path / "m-00001-of-00002.gguf"
    write(part, network)
    with pytest.raises(ng.NeuroglotError, match="is missing"):
        ng.load_model(part)
    second = tmp_path / "m-00002-of-00002.gguf"
    write(second, network)
    with pytest.raises(ng.NeuroglotError, match="give the first"):
        ng.load_model(second)
    assert not list((tmp_path / "cache" / "models").glob("*-2"))
