"""Samples are read whole, alone and once, whatever they share a batch with."""

import json
from importlib import import_module

import pytest
import torch

import neuroglot as ng

sampling = import_module("neuroglot.recording.record_samples")  # the package hands on the function of that name

TEXTS = {
    "en": ["a cat", "the dogs sleep all day long in the warm sun", "rain", "no"],
    "fr": ["un chat", "les chiens dorment toute la journée au soleil", "la pluie", "non"],
    "ru": ["кот", "собаки спят весь день на солнце", "дождь", "нет"],
}


@pytest.fixture(scope="module")
def model(example):
    torch.manual_seed(0)
    corpus = ng.Corpus(TEXTS, parallel=True)
    network = example.llama(258, width=16, layers=3, neurons=24, heads=2)
    return ng.Model(network, example.byte_pairs(corpus, 258), name="random", bos="always")


@pytest.fixture
def corpus():
    return ng.Corpus(TEXTS, parallel=True, keys=["cat", "dogs", "rain", "no"], name="small")


def by_hand(model, text):
    """Mean hidden of one text, layer after layer, and its mean states: alone, unpadded, without BOS."""
    network = model.network
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    caught = []
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0][0, 1:]))
        for layer in network.model.layers
    ]
    with torch.no_grad():
        output = network(torch.tensor([[model.bos, *ids]]), output_hidden_states=True)
        last = []
        handle = network.model.norm.register_forward_pre_hook(lambda _, inputs: last.append(inputs[0]))
        network(torch.tensor([[model.bos, *ids]]))
        handle.remove()
    for handle in handles:
        handle.remove()
    vector = torch.cat([hidden.mean(0) for hidden in caught[: model.layers]])
    states = torch.stack([state[0, 1:].mean(0) for state in [*output.hidden_states[1:-1], last[0]]])
    return vector / vector.norm(), states


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_vectors_and_states_equal_each_text_read_alone(model, corpus, batch_tokens):
    samples = ng.record_samples(model, corpus, batch_tokens=batch_tokens, progress=False)
    assert samples.languages == corpus.languages
    assert samples.keys == ("cat", "dogs", "rain", "no")
    assert samples.vectors.shape == (3, 4, 3 * 24)
    for k, tag in enumerate(corpus.languages):
        for i, text in enumerate(TEXTS[tag]):
            vector, states = by_hand(model, text)
            torch.testing.assert_close(samples.vectors[k, i], vector, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(samples.states[k, i], states, atol=1e-6, rtol=1e-5)


def test_other_statistics_come_from_the_same_pass_over_the_same_tokens(model, corpus):
    samples = ng.record_samples(model, corpus, statistics=["active", "hidden"], progress=False)
    recording = samples.recording
    lengths = {tag: [len(text.encode()) for text in texts] for tag, texts in TEXTS.items()}
    assert recording.tokens.tolist() == [sum(lengths[tag]) for tag in corpus.languages]
    # a language's sum of hidden is its samples' means, each as often as it has tokens
    alone = [ng.record_samples(model, corpus.select([tag]), batch_tokens=1, progress=False) for tag in TEXTS]
    assert recording.languages == corpus.languages
    for k, tag in enumerate(TEXTS):
        assert alone[k].recording is None
        mean = recording.mean("hidden")[..., k].flatten()
        share = torch.tensor(lengths[tag]) / sum(lengths[tag])
        direct = torch.stack([by_hand_mean(model, text) for text in TEXTS[tag]])
        torch.testing.assert_close(mean.float(), (share[:, None] * direct).sum(0), atol=1e-6, rtol=1e-4)
    assert bool((recording.active <= recording.tokens).all())


def by_hand_mean(model, text):
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    caught = []
    handles = [
        ffn.down.register_forward_pre_hook(lambda _, x: caught.append(x[0][0, 1:].mean(0))) for ffn in model.ffns
    ]
    with torch.no_grad():
        model.hidden_states(torch.tensor([[model.bos, *ids]]))
    for handle in handles:
        handle.remove()
    return torch.cat(caught)


def test_saved_samples_open_as_they_were(model, corpus, tmp_path):
    made = ng.record_samples(model, corpus, statistics=["active"], directory=tmp_path / "samples", progress=False)
    for samples in (ng.Samples.load(str(tmp_path / "samples")), ng.Samples.load(made.save(tmp_path / "copy"))):
        assert torch.equal(samples.vectors, made.vectors)
        assert torch.equal(samples.states, made.states)
        assert (samples.languages, samples.keys, samples.layers) == (made.languages, made.keys, made.layers)
        assert samples.provenance == made.provenance
        assert torch.equal(samples.recording.active, made.recording.active)


def test_recording_again_into_a_directory_opens_it_or_says_what_differs(model, corpus, tmp_path, monkeypatch):
    ng.record_samples(model, corpus, directory=tmp_path / "samples", progress=False)
    with pytest.raises(
        ng.NeuroglotError,
        match=r"other settings: text \(was \w{8}…, now .*languages \(was .*'ru'\], now \['en', 'fr'\]\)",
    ):
        ng.record_samples(model, corpus.select(["en", "fr"]), directory=tmp_path / "samples", progress=False)
    monkeypatch.setattr(sampling, "fill", None)  # nothing is run again
    ng.record_samples(model, corpus, directory=tmp_path / "samples", progress=False)


def test_an_interrupted_pass_leaves_nothing(model, corpus, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("neuroglot.recording.sample_pass.norms_of", stop)
    with pytest.raises(KeyboardInterrupt):
        ng.record_samples(model, corpus, directory=tmp_path / "samples", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vectors.npy", "samples.json"])
def test_damaged_samples_are_recorded_again_and_what_is_no_samples_stays(model, corpus, tmp_path, name):
    path = tmp_path / "samples"
    ng.record_samples(model, corpus, directory=path, progress=False)
    good = (path / name).read_bytes()
    (path / name).write_bytes(good[:-3])
    with pytest.warns(ng.NeuroglotWarning, match="record the samples again. This is done now"):
        ng.record_samples(model, corpus, directory=path, progress=False)
    assert (path / name).read_bytes() == good
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for write in (
        lambda place: ng.record_samples(model, corpus, directory=place, progress=False),
        ng.Samples.load(path).save,
        model.save,
    ):
        with pytest.raises(ng.NeuroglotError, match="holds other things"):
            write(tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_damaged_samples_are_refused(model, corpus, tmp_path):
    ng.record_samples(model, corpus, directory=tmp_path / "samples", progress=False)
    file = tmp_path / "samples" / "vectors.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ng.NeuroglotError, match="checksum"):
        ng.Samples.load(tmp_path / "samples")
    (tmp_path / "samples" / "samples.json").write_text("{")
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        ng.Samples.load(tmp_path / "samples")
    with pytest.raises(ng.NeuroglotError, match="holds no samples"):
        ng.Samples.load(tmp_path / "nothing")


def test_large_arrays_live_in_a_file(model, corpus, monkeypatch):
    small = ng.record_samples(model, corpus, progress=False)
    monkeypatch.setattr(sampling, "IN_MEMORY", 0)
    large = ng.record_samples(model, corpus, progress=False)
    assert torch.equal(large.vectors, small.vectors)
    assert ng.identify.key_regions(large, threshold=1.2) == ng.identify.key_regions(small, threshold=1.2)


def test_a_missing_sample_is_named_or_dropped(model):
    texts = {**TEXTS, "fr": [TEXTS["fr"][0], None, *TEXTS["fr"][2:]]}
    corpus = ng.Corpus(texts, parallel=True, keys=["cat", "dogs", "rain", "no"], name="small")
    with pytest.raises(ng.NeuroglotError, match="Sample dogs of small has no text in fr"):
        ng.record_samples(model, corpus, progress=False)
    with pytest.warns(ng.NeuroglotWarning, match="1 samples of small were dropped"):
        samples = ng.record_samples(model, corpus, missing="drop", progress=False)
    assert samples.keys == ("cat", "rain", "no")


def test_samples_are_the_first_or_drawn_in_order(model, corpus):
    assert ng.record_samples(model, corpus, samples=2, progress=False).keys == ("cat", "dogs")
    drawn = {ng.record_samples(model, corpus, samples=2, seed=seed, progress=False).keys for seed in range(8)}
    assert len(drawn) > 1
    assert all(tuple(sorted(keys, key=corpus.keys.index)) == keys for keys in drawn)


def test_long_samples_are_refused_or_cut(model):
    corpus = ng.Corpus({"en": ["a" * 600, "b"], "fr": ["c", "d"]}, parallel=True, keys=["long", "short"])
    with pytest.raises(ng.NeuroglotError, match=r"Sample long in en has more tokens.*max_tokens=511"):
        ng.record_samples(model, corpus, progress=False)
    cut = ng.record_samples(model, corpus, max_tokens=5, progress=False)
    vector, _ = by_hand(model, "a" * 5)
    torch.testing.assert_close(cut.vectors[0, 0], vector, atol=1e-6, rtol=1e-5)


def test_what_cannot_be_recorded_is_refused(model, corpus):
    with pytest.raises(ng.NeuroglotError, match="not a parallel corpus"):
        ng.record_samples(model, ng.Corpus(TEXTS), progress=False)
    with pytest.raises(ng.NeuroglotError, match="cannot be recorded"):
        ng.record_samples(model, corpus, statistics=["sums"], progress=False)


def test_someone_elses_vectors_are_checked():
    vectors = torch.rand(2, 3, 8)
    assert ng.Samples.from_vectors(vectors.half(), ["en", "fr"], layers=2).vectors.dtype == torch.float32
    by_tag = ng.Samples.from_vectors({"en": vectors[0], "fr": vectors[1]}, layers=2, keys="abc")
    assert by_tag.keys == ("a", "b", "c")
    with pytest.raises(ng.NeuroglotError, match=r"unequal \(en 3, fr 2\)"):
        ng.Samples.from_vectors([vectors[0], vectors[1, :2]], ["en", "fr"], layers=2)
    with pytest.raises(ng.NeuroglotError, match="not 3 equal layers"):
        ng.Samples.from_vectors(vectors, ["en", "fr"], layers=3)
    with pytest.raises(ng.NeuroglotError, match="vectors of 2 languages"):
        ng.Samples.from_vectors(vectors, ["en"], layers=2)
    vectors[1, 2] = 0
    with pytest.raises(ng.NeuroglotError, match="sample 2 in fr are all zero"):
        ng.Samples.from_vectors(vectors, ["en", "fr"], layers=2)


def test_the_header_is_json_that_a_person_can_read(model, corpus, tmp_path):
    ng.record_samples(model, corpus, directory=tmp_path / "samples", progress=False)
    header = json.loads((tmp_path / "samples" / "samples.json").read_text(encoding="utf-8"))
    assert header["languages"] == ["en", "fr", "ru"]
    assert header["provenance"]["block"] == 0
