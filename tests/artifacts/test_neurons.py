"""NeuronSets: algebra and files."""

import math

import pytest
import shapes
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.partition import Partition

TAGS = ["en", "zh", "fr", "es"]


def made(seed: int, languages: int = 3, shape=(4, 9)) -> ng.NeuronSet:
    mask = torch.rand((languages, *shape), generator=torch.Generator().manual_seed(seed)) < 0.3
    return ng.NeuronSet(mask, TAGS[:languages], {"method": "lape"})


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_algebra_against_sets(seed, languages):
    neurons = made(seed, languages)
    sets = {tag: {tuple(i) for i in neurons[tag].nonzero().tolist()} for tag in neurons.languages}
    as_set = lambda mask: {tuple(i) for i in mask.nonzero().tolist()}  # noqa: E731
    assert as_set(neurons.union()) == set.union(*sets.values())
    assert as_set(neurons.intersection()) == set.intersection(*sets.values())
    overlap = neurons.overlap()
    for a in sets:
        assert neurons.sizes()[a] == len(sets[a]) == neurons.counts()[a].sum()
        for b in sets:
            either = sets[a] | sets[b]
            expected = len(sets[a] & sets[b]) / len(either) if either else float("nan")
            assert overlap.loc[a, b] == pytest.approx(expected, nan_ok=True)
    for layer in range(4):
        assert neurons.counts().loc[layer + 1, "en"] == sum(i == layer for i, _ in sets["en"])


@given(st.integers(0, 10**6))
def test_both_formats_give_back_what_was_saved(tmp_path_factory, seed):
    folder, neurons = tmp_path_factory.mktemp("n"), made(seed)
    loaded = ng.NeuronSet.load(neurons.save(folder / "n.safetensors"))
    assert loaded == neurons
    assert loaded.about["method"] == "lape"
    published = neurons.save(folder / "n.neuron.pth")
    assert ng.NeuronSet.load(published, languages=TAGS[:3], shape=(4, 9)) == neurons
    raw = torch.load(published, weights_only=True)
    assert [[row.tolist() for row in layers] for layers in raw] == [
        [row.nonzero().flatten().tolist() for row in layers] for layers in neurons.mask
    ]


def test_tags_are_normalised_and_unknown_ones_named():
    neurons = made(0)
    assert torch.equal(neurons["fra_Latn"], neurons["fr"])
    with pytest.raises(ng.NeuroglotError, match="no ur; they have en, zh, fr"):
        neurons["ur"]
    with pytest.raises(ng.NeuroglotError, match="not a language tag"):
        neurons["klingonish"]


def test_published_files_are_checked(tmp_path):
    path = made(0).save(tmp_path / "n.neuron.pth")
    with pytest.raises(ng.NeuroglotError, match="neither languages nor shape"):
        ng.NeuronSet.load(path)
    with pytest.raises(ng.NeuroglotError, match="holds 3 languages, but 2"):
        ng.NeuronSet.load(path, languages=["en", "fr"], shape=(4, 9))
    with pytest.raises(ng.NeuroglotError, match="has 4 layers for en, but the shape says 5"):
        ng.NeuronSet.load(path, languages=TAGS[:3], shape=(5, 9))
    torch.save([[torch.tensor([9])]], path)
    with pytest.raises(ng.NeuroglotError, match="names neuron 9 in layer 1 of en"):
        ng.NeuronSet.load(path, languages=["en"], shape=(1, 9))
    path.write_bytes(b"not a pickle")
    with pytest.raises(ng.NeuroglotError, match="damaged"):
        ng.NeuronSet.load(path, languages=["en"], shape=(1, 9))
    torch.save(print, path)  # code, not tensors
    with pytest.raises(ng.NeuroglotError, match="more than tensors"):
        ng.NeuronSet.load(path, languages=["en"], shape=(1, 9))
    with pytest.raises(ng.NeuroglotError, match="does not exist"):
        ng.NeuronSet.load(tmp_path / "none.neuron.pth", languages=["en"], shape=(1, 9))


def test_the_bytes_say_which_format_it_is_and_the_name_does_not(tmp_path):
    neurons = made(0)
    for saved, name in [
        ("n.neuron.pth", "clas-llama-1"),
        ("n.safetensors", "n.pth"),
        ("m.neuron.pth", "x.safetensors"),
    ]:
        path = neurons.save(tmp_path / saved).rename(tmp_path / name)
        assert ng.NeuronSet.load(path, languages=TAGS[:3], shape=(4, 9)) == neurons
    rows = [[row.nonzero().flatten() for row in layers] for layers in neurons.mask]
    torch.save(rows, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert ng.NeuronSet.load(tmp_path / "old", languages=TAGS[:3], shape=(4, 9)) == neurons
    torch.save([[row.tolist() for row in layers] for layers in rows], tmp_path / "lists")
    assert ng.NeuronSet.load(tmp_path / "lists", languages=TAGS[:3], shape=(4, 9)) == neurons
    torch.save([tuple(row.to(torch.int16) for row in layers) for layers in rows], tmp_path / "short")
    assert ng.NeuronSet.load(tmp_path / "short", languages=TAGS[:3], shape=(4, 9)) == neurons


@pytest.mark.parametrize(
    "row",
    [
        torch.tensor([0.9, 3.0]),  # scores; cut to whole numbers they would be neurons 0 and 3
        torch.tensor([True, False, True]),  # a mask; as numbers it would be neurons 1 and 0
        torch.tensor([[0, 3]]),
        [0.5, 1.0],
        [True, False],
        ["3"],
        None,
        7,
        {"3": 1},
        [2**70],
        torch.tensor([1 + 2j]),
    ],
    ids=repr,
)
def test_what_is_no_list_of_whole_numbers_is_refused(tmp_path, row):
    torch.save([[row]], tmp_path / "n")
    with pytest.raises(ng.NeuroglotError, match="layer 1 of en: indices of neurons are a list of whole numbers, not"):
        ng.NeuronSet.load(tmp_path / "n", languages=["en"], shape=(1, 9))


def test_other_contents_are_refused_in_a_sentence(tmp_path):
    def sentence(held):
        torch.save(held, tmp_path / "n")
        with pytest.raises(ng.NeuroglotError) as error:
            ng.NeuronSet.load(tmp_path / "n", languages=["en"], shape=(1, 9))
        return str(error.value)

    assert "names neuron -1" in sentence([[torch.tensor([-1, 2])]])
    assert "names neuron 9" in sentence([[torch.tensor([9])]])
    assert "no list of layers for en but Tensor" in sentence([torch.tensor([1])])
    assert "no list of languages but dict" in sentence({"en": [[1]]})
    assert "no list of languages but Tensor" in sentence(torch.zeros(1, 1, 9))
    assert "holds 0 languages, but 1" in sentence([])
    for content in (b"", b"PK\x03\x04", b"\x80", b"\x80\x02]q\x00.", b"{}", bytes(range(256))):
        (tmp_path / "n").write_bytes(content)
        with pytest.raises(ng.NeuroglotError):
            ng.NeuronSet.load(tmp_path / "n", languages=["en"], shape=(1, 9))


def test_masks_are_checked(tmp_path):
    for mask, languages in [
        (torch.zeros(1, 2, 3), ["en"]),
        (torch.zeros(2, 3, dtype=torch.bool), ["en", "fr"]),
        (torch.zeros(2, 2, 3, dtype=torch.bool), ["en"]),
        (torch.zeros(2, 2, 3, dtype=torch.bool), ["en", "en"]),
    ]:
        with shapes.unchecked(), pytest.raises(ng.NeuroglotError):
            ng.NeuronSet(mask, languages)
    with pytest.raises(ng.NeuroglotError, match=r"\.safetensors"):
        made(0).save(tmp_path / "n.json")
    with pytest.raises(ng.NeuroglotError, match="not \\(4, 8\\)"):
        ng.NeuronSet.load(made(0).save(tmp_path / "n.safetensors"), shape=(4, 8))


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_frame_holds_every_neuron_and_what_is_alone_is_no_other_languages(seed, languages):
    neurons = made(seed, languages)
    table = neurons.frame()
    for tag in neurons.languages:
        rows = table[table["language"] == tag]
        assert {(row.layer - 1, row.neuron) for row in rows.itertuples()} == {
            tuple(place) for place in neurons[tag].nonzero().tolist()
        }
        alone = {(row.layer - 1, row.neuron) for row in rows[rows["languages"] == 1].itertuples()}
        others = [neurons[other] for other in neurons.languages if other != tag]
        expected = neurons[tag] & ~torch.stack(others).any(0) if others else neurons[tag]
        assert torch.equal(neurons.alone()[tag], expected)
        assert alone == {tuple(place) for place in expected.nonzero().tolist()}


def test_a_frame_says_probability_and_entropy_of_each_neuron():
    tokens, generator = torch.tensor([50, 80, 20]), torch.Generator().manual_seed(5)
    active = (torch.rand(4, 9, 3, generator=generator) * (tokens + 1)).long()
    active[0, 0] = 0
    recording = ng.Recording.from_counts(active, tokens, TAGS[:3], activation=active.double() * 2)
    whole = recording.frame()
    assert len(whole) == 4 * 9 * 3 and whole["language"].value_counts().to_dict() == dict.fromkeys(TAGS[:3], 36)
    assert whole[(whole.layer == 1) & (whole.neuron == 0)]["entropy"].isna().all()
    cells = whole.set_index(["layer", "neuron", "language"])
    table = made(1).select(["zh", "en"]).frame(recording)
    assert len(table) > 5
    for row in table.itertuples():
        k = TAGS.index(row.language)
        shares = [active[row.layer - 1, row.neuron, i].item() / tokens[i].item() for i in range(3)]
        assert row.probability == pytest.approx(shares[k]) and row.activation == pytest.approx(2 * shares[k])
        q = [share / sum(shares) for share in shares]
        assert row.entropy == pytest.approx(-sum(x * math.log(x) for x in q if x), abs=1e-12)
        cell = cells.loc[(row.layer, row.neuron, row.language)]
        assert (cell.probability, cell.entropy, cell.tokens) == (row.probability, row.entropy, tokens[k])
    with pytest.raises(ng.NeuroglotError, match="4 × 9, not of 4 layers of at most 8"):
        made(1).frame(ng.Recording.from_counts(active[:, :8], tokens, TAGS[:3]))
    with pytest.raises(ng.NeuroglotError, match="has no fr"):
        made(1).frame(recording.select(["en", "zh"]))


def test_samples_and_partitions_have_frames():
    samples = ng.Samples.from_vectors(torch.rand(2, 3, 8), ["en", "fr"], layers=2)
    table = samples.frame()
    assert len(table) == 2 * 3 * 2 and table.groupby(["language", "key"])["share"].sum().tolist() == pytest.approx(
        [1] * 6
    )
    one = table[(table.language == "fr") & (table.key == samples.keys[1]) & (table.layer == 2)]["share"].item()
    assert one == pytest.approx(float(samples.vectors[1, 1, 4:].double().square().sum()))
    partition = Partition(torch.tensor([[0, 1, 0], [1, 0, 1]]), 2)
    assert partition.frame().to_numpy().tolist() == [[1, 0, 0], [1, 1, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0], [2, 2, 1]]
