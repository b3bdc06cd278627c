"""A changed model's GGUF file, opened again, is that model."""

import gguf_files
import pytest
import torch

import neuroglot as ng
from neuroglot.pruning.checkpoint import cut
from neuroglot.pruning.gguf_export import takes_fewer_heads, write_gguf
from neuroglot.pruning.heads import HeadCut
from neuroglot.pruning.vocabulary import kept_tokens, language_counts


@pytest.fixture(params=["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def opened(request, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    kind = gguf_files.KINDS[request.param]
    pre = "qwen2" if kind.type.startswith("qwen") else "gpt-2"
    file = gguf_files.write(tmp_path / "intact.gguf", request.param, gguf_files.network(request.param), pre=pre)
    return ng.load_model(file), file


def logits(model, text="abc ab"):
    with torch.no_grad():
        return model.network(torch.tensor([[*model.begin, *model.encode([text])[0]]])).logits


@pytest.mark.parametrize("groups", [[0, 2], [0, 1]], ids=["of each key-value head", "a key-value head"])
def test_fewer_heads_are_read_back(opened, groups, tmp_path):
    model, file = opened
    heads = torch.zeros(model.shape("heads"), dtype=torch.bool)
    heads[:, groups] = True
    with cut(model, model.exists, None, None, HeadCut(heads)):
        wanted = logits(model)
        if not takes_fewer_heads(file):
            with pytest.raises(ng.NeuroglotError, match="no-heads"):
                write_gguf(model, file, tmp_path / "small.gguf")
            assert not (tmp_path / "small.gguf").exists()
            return
        write_gguf(model, file, tmp_path / "small.gguf")
    again = ng.load_model(tmp_path / "small.gguf")
    assert again.text_config.num_attention_heads == 2
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("even", [True, False])
def test_a_trimmed_and_pruned_model_is_read_back(opened, even, tmp_path):
    model, file = opened
    keep = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(0)).argsort(1) < 16
    if not even:
        keep[0, :] = False
        keep[0, 3:7] = True
    ids = kept_tokens(model, language_counts(model, ["abc abd"], "fr"))
    with cut(model, keep, None, ids):
        model.network.get_input_embeddings().weight.data[0] += 1  # healed
        wanted = logits(model)
        write_gguf(model, file, tmp_path / "small.gguf")
    again = ng.load_model(tmp_path / "small.gguf")
    assert again.vocabulary == len(ids)
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)
    assert again.tokenizer.decode(again.encode(["abc abd é"])[0]) == "abc abd é"


def test_what_did_not_change_is_copied(opened, tmp_path):
    model, file = opened
    write_gguf(model, file, tmp_path / "same.gguf")
    from neuroglot.models.gguf_header import read_header

    one, other = read_header(file), read_header(tmp_path / "same.gguf")
    assert {k: v for k, v in one.keys.items() if v != []} == other.keys
    assert {n: (t.kind, t.shape, t.data.tobytes()) for n, t in one.tensors.items()} == {
        n: (t.kind, t.shape, t.data.tobytes()) for n, t in other.tensors.items()
    }
    with pytest.raises(ng.NeuroglotError, match="exists"):
        write_gguf(model, file, tmp_path / "same.gguf")


def test_what_has_no_place_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    file = gguf_files.write(tmp_path / "x.gguf", "gpt2", gguf_files.network("gpt2"))
    with pytest.raises(ng.NeuroglotError, match="not written as GGUF"):
        write_gguf(ng.load_model(file), file, tmp_path / "y.gguf")
    assert not (tmp_path / "y.gguf").exists()


@pytest.mark.real
def test_llama_cpp_reads_a_trimmed_vocabulary_as_we_do(tmp_path):
    pytest.importorskip("xllamacpp")
    import json

    import xllamacpp

    from neuroglot.models.gguf import gguf_file
    from neuroglot.pruning.vocabulary import trimmed

    model = ng.load_model("smollm2-135m")
    text = list(ng.load_corpus("starter", languages=["en"])["en"])
    with trimmed(model, kept_tokens(model, language_counts(model, text, "en"))):
        small = write_gguf(model, gguf_file("smollm2-135m"), tmp_path / "small.gguf")
        assert small.stat().st_size < 0.95 * gguf_file("smollm2-135m").stat().st_size
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.warmup = str(small), 256, False
        server = xllamacpp.Server(settings)
        for prompt in ("Water boils at a temperature of", "The capital of France is"):
            asked = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 8}
            answer = server.handle_completions(asked)
            answer = answer if isinstance(answer, dict) else json.loads(answer)
            theirs = {e["id"]: e["logprob"] for e in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
            ours = logits(model, prompt)[0, -1].log_softmax(-1)
            assert sum(abs(float(ours[i].exp()) - 2.718281828**p) for i, p in theirs.items()) < 0.25
