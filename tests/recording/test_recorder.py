"""The one pass against brute force, and the laws of adding."""

import json

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.recording.shard_store import ShardStore
from neuroglot.tokens.packing import pack

NAMES = ("active", "activation", "hidden")


def by_brute_force(model: ng.Model, corpus: ng.Corpus, block: int, tokens: int = 10**6):
    """Block by block, every activation kept whole, then looped over."""
    before, first = len(model.begin), model.uncounted
    sums = {name: [] for name in NAMES}
    counts = []
    for tag in corpus.languages:
        ids = [i for text in corpus[tag] for i in model.tokenizer(text + "\n", add_special_tokens=False)["input_ids"]][
            :tokens
        ]
        size = block - before
        seen: list = [[], []]
        for start in range(0, len(ids) // size * size, size):
            row = [*model.begin, *ids[start : start + size]]
            got: list = []
            with observe_ffn(model.ffns, lambda i, a, h, got=got: got.append((a, h))), torch.no_grad():
                model.network(torch.tensor([row]))
            for site in (0, 1):
                seen[site].append(torch.stack([pair[site].view(block, -1)[first:] for pair in got]))
        activation, hidden = (torch.cat(values, dim=1).double() for values in seen)  # (L, tokens, N)
        sums["active"].append((activation > 0).sum(1))
        sums["activation"].append(activation.sum(1))
        sums["hidden"].append(hidden.sum(1))
        counts.append(activation.shape[1])
    return {name: torch.stack(values, dim=-1) for name, values in sums.items()}, counts


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma3_text", "phi3"])
@pytest.mark.parametrize("bos", [True, pytest.param(False, marks=pytest.mark.long)])
def test_equals_brute_force(family, bos):
    model, corpus = tiny.model(family, bos=bos), tiny.corpus()
    recording = ng.record(model, corpus, block=16, batch_tokens=64, progress=False)
    sums, tokens = by_brute_force(model, corpus, 16)
    assert recording.languages == ("en", "fr", "ru")
    assert recording.tokens.tolist() == tokens
    assert recording.active.dtype == torch.int64
    # a batch of another size may round a value that is almost zero to the other side of it
    assert (recording.active - sums["active"]).abs().max() <= 1
    assert (recording.active != sums["active"]).float().mean() < 0.01
    for name in ("activation", "hidden"):
        torch.testing.assert_close(recording.sum(name), sums[name], rtol=1e-4, atol=1e-3)


def test_one_batch_equals_brute_force_exactly():
    model, corpus = tiny.model(), tiny.corpus()
    recording = ng.record(model, corpus, block=16, batch_tokens=16, progress=False)
    sums, _ = by_brute_force(model, corpus, 16)
    assert torch.equal(recording.active, sums["active"])
    for name in ("activation", "hidden"):
        torch.testing.assert_close(recording.sum(name), sums[name], rtol=1e-12, atol=1e-12)


def test_token_limit_and_unpacked_tail():
    model, corpus = tiny.model(), tiny.corpus()
    recording = ng.record(model, corpus, block=16, tokens=100, progress=False)
    assert recording.tokens.tolist() == [90, 90, 90]  # six blocks of 15 tokens of text


@pytest.mark.slow
def test_two_halves_add_to_the_whole():
    model, corpus = tiny.model(), tiny.corpus(40)
    settings = {"block": 16, "shard_tokens": 64, "progress": False}
    whole = ng.record(model, corpus, **settings)
    first, second = (ng.record(model, corpus, part=(i, 2), **settings) for i in (1, 2))
    both = first + second
    assert both.languages == whole.languages
    assert torch.equal(both.tokens, whole.tokens)
    assert torch.equal(both.active, whole.active)
    for name in ("activation", "hidden"):
        torch.testing.assert_close(both.sum(name), whole.sum(name), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_languages_apart_add_to_the_whole_to_the_byte():
    model, corpus = tiny.model(), tiny.corpus(40)
    settings = {"block": 16, "shard_tokens": 64, "progress": False}
    whole = ng.record(model, corpus, **settings)
    apart = ng.Recording.merge(ng.record(model, corpus.select([tag]), **settings) for tag in corpus.languages)
    for name in NAMES:
        assert torch.equal(apart.sum(name), whole.sum(name))


def test_permuting_languages_permutes_the_recording():
    model, corpus = tiny.model(), tiny.corpus()
    order = ["ru", "en", "fr"]
    one = ng.record(model, corpus, block=16, progress=False)
    other = ng.record(model, corpus.select(order), block=16, progress=False)
    assert other.languages == tuple(order)
    for name in NAMES:
        assert torch.equal(one.select(order).sum(name), other.sum(name))


@pytest.mark.slow
def test_an_interrupted_recording_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    model, corpus = tiny.model(), tiny.corpus(40)
    settings = {"block": 16, "shard_tokens": 64, "progress": False}
    whole = ng.record(model, corpus, directory=tmp_path / "at-once", **settings)

    put, done = ShardStore.put, []

    def stop_after_three(self, name, recording):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(name)
        put(self, name, recording)

    monkeypatch.setattr(ShardStore, "put", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        ng.record(model, corpus, directory=tmp_path / "stopped", **settings)
    monkeypatch.setattr(ShardStore, "put", put)
    assert not (tmp_path / "stopped" / "recording.safetensors").exists()

    passes = []
    body = ng.Model.hidden_states
    monkeypatch.setattr(ng.Model, "hidden_states", lambda self, *args: passes.append(1) or body(self, *args))
    resumed = ng.record(model, corpus, directory=tmp_path / "stopped", **settings)
    total = sum(-(-len(pack(model, corpus[tag], tag, block=16, tokens=10**6)) // 4) for tag in corpus.languages)
    assert len(passes) == total - 3
    for name in NAMES:
        assert torch.equal(resumed.sum(name), whole.sum(name))
    files = [(tmp_path / name / "recording.safetensors").read_bytes() for name in ("at-once", "stopped")]
    assert files[0] == files[1]
    ng.record(model, corpus, directory=tmp_path / "stopped", **settings)
    assert len(passes) == total - 3  # finished: nothing is run again


def test_a_directory_of_other_settings_text_or_model_is_refused(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    ng.record(model, corpus, block=16, directory=tmp_path, progress=False)
    with pytest.raises(ng.NeuroglotError, match=r"block \(was 16, now 32\)"):
        ng.record(model, corpus, block=32, directory=tmp_path, progress=False)
    with pytest.raises(ng.NeuroglotError, match="the text"):
        ng.record(model, tiny.corpus(11), block=16, directory=tmp_path, progress=False)
    with pytest.raises(ng.NeuroglotError, match="fingerprint"):
        ng.record(tiny.model(seed=1), corpus, block=16, directory=tmp_path, progress=False)


def test_a_damaged_shard_is_recorded_again(tmp_path):
    model, corpus = tiny.model(), tiny.corpus(40)
    settings = {"block": 16, "shard_tokens": 64, "progress": False}
    whole = ng.record(model, corpus, directory=tmp_path, **settings)
    (tmp_path / "recording.safetensors").unlink()
    (tmp_path / "shards").mkdir()
    digest = json.loads((tmp_path / "text" / "fr.json").read_text())["shards"][0]
    (tmp_path / "shards" / f"fr-00000-{digest}.safetensors").write_bytes(b"half a file")
    again = ng.record(model, corpus, directory=tmp_path, **settings)
    assert torch.equal(again.active, whole.active)


def test_the_head_is_never_run_and_nothing_is_left_behind():
    model, corpus = tiny.model(), tiny.corpus()
    called = []
    model.network.get_output_embeddings().register_forward_hook(lambda *_: called.append(1))
    ng.record(model, corpus, block=16, progress=False)
    assert called == []
    assert all(not ffn.down._forward_pre_hooks and not ffn.activation._forward_hooks for ffn in model.ffns)


def test_numbers_that_are_none_are_refused():
    model, corpus = tiny.model(), tiny.corpus()
    with torch.no_grad():
        model.ffns[1].down.weight[0, 0] = float("nan")
    with pytest.raises(ng.NeuroglotError, match="not numbers"):
        ng.record(model, corpus, block=16, progress=False)


def test_refusals():
    model, corpus = tiny.model(), tiny.corpus(1)
    with pytest.raises(ng.NeuroglotError, match=r"en has \d+ tokens .* too few for one block of 128"):
        ng.record(model, corpus, block=128, progress=False)
    with pytest.raises(ng.NeuroglotError, match="block must be from 2 to 128"):
        ng.record(model, corpus, block=129, progress=False)
    with pytest.raises(ng.NeuroglotError, match="cannot be recorded"):
        ng.record(model, corpus, block=16, statistics=["median"], progress=False)
    small = ng.Model(
        tiny.network(vocab_size=200, bos_token_id=0, eos_token_id=1, pad_token_id=1), tiny.tokenizer(bos=False)
    )
    with pytest.raises(ng.NeuroglotError, match="do not belong together"):
        ng.record(small, corpus, block=16, progress=False)


# --- the value -----------------------------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
TAGS = ["en", "fr", "zh", "ur"]


def random_recording(shape, seed, languages=None):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 50, shape[2:], generator=generator)
    active = (torch.rand(shape, generator=generator) * (tokens + 1)).long().clamp(max=tokens)
    values = torch.randn(shape, generator=generator)
    return ng.Recording.from_counts(active, tokens, languages or TAGS[: shape[2]], activation=values)


@given(SHAPES, st.integers(0, 10**6))
def test_merge_commutes_and_associates(shape, seed):
    a, b, c = (random_recording(shape, seed + i) for i in range(3))
    for one, other in ((a + b, b + a), ((a + b) + c, a + (b + c))):
        assert torch.equal(one.active, other.active)
        assert torch.equal(one.tokens, other.tokens)
        torch.testing.assert_close(one.sum("activation"), other.sum("activation"), rtol=1e-12, atol=1e-12)


def test_merge_keeps_languages_of_either():
    one, other = random_recording((2, 3, 2), 0, ["en", "fr"]), random_recording((2, 3, 2), 1, ["fr", "ur"])
    both = one + other
    assert both.languages == ("en", "fr", "ur")
    assert torch.equal(both.active[..., 1], one.active[..., 1] + other.active[..., 0])
    assert torch.equal(both.active[..., 2], other.active[..., 1])


def test_merge_refuses_what_differs():
    model, corpus = tiny.model(), tiny.corpus()
    base = ng.record(model, corpus, block=16, progress=False)
    cases = {
        "model": ng.record(tiny.model(seed=1), corpus, block=16, progress=False),
        "tokenizer": ng.record(tiny.model(bos=False), corpus, block=16, progress=False),
        "block size": ng.record(model, corpus, block=32, progress=False),
        "statistics": ng.record(model, corpus, block=16, statistics=["active"], progress=False),
        "shape": ng.record(tiny.model(num_hidden_layers=2), corpus, block=16, progress=False),
    }
    for what, other in cases.items():
        with pytest.raises(ng.NeuroglotError, match=f"differ in .*{what}"):
            base + other


@given(SHAPES, st.integers(0, 10**6))
def test_save_and_load(tmp_path_factory, shape, seed):
    recording = random_recording(shape, seed)
    path = recording.save(tmp_path_factory.mktemp("r") / "r.safetensors")
    loaded = ng.Recording.load(path)
    assert loaded.languages == recording.languages
    assert torch.equal(loaded.tokens, recording.tokens)
    assert all(torch.equal(loaded.sums[name], values) for name, values in recording.sums.items())


def test_load_refuses_damage(tmp_path):
    path = random_recording((2, 3, 2), 0).save(tmp_path / "r.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ng.NeuroglotError, match="checksum"):
        ng.Recording.load(path)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        ng.Recording.load(path)
    with pytest.raises(ng.NeuroglotError, match="does not exist"):
        ng.Recording.load(tmp_path / "none.safetensors")
    neurons = ng.NeuronSet(torch.zeros(1, 2, 3, dtype=torch.bool), ["en"]).save(tmp_path / "n.safetensors")
    with pytest.raises(ng.NeuroglotError, match="not a recording file but neurons"):
        ng.Recording.load(neurons)


@pytest.mark.parametrize(
    ("active", "tokens", "languages"),
    [
        (torch.ones(2, 3, 2), torch.tensor([5]), ["en", "fr"]),
        (torch.ones(2, 3), torch.tensor([5, 5]), ["en", "fr"]),
        (torch.full((2, 3, 2), 6), torch.tensor([5, 5]), ["en", "fr"]),
        (torch.full((2, 3, 2), 0.5), torch.tensor([5, 5]), ["en", "fr"]),
        (torch.full((2, 3, 2), -1), torch.tensor([5, 5]), ["en", "fr"]),
        (torch.zeros(2, 3, 2), torch.tensor([5, 0]), ["en", "fr"]),
        (torch.zeros(2, 3, 2), torch.tensor([5, 5]), ["en", "EN"]),
        (torch.zeros(2, 3, 2), torch.tensor([5, 5]), ["en", "klingonish"]),
    ],
)
def test_from_counts_refuses(active, tokens, languages):
    with pytest.raises(ng.NeuroglotError):
        ng.Recording.from_counts(active, tokens, languages)
