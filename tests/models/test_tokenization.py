"""What begins a text, that nothing in it is special, and that long ones are cut where tokens end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken

import neuroglot as ng
from neuroglot.models import tokenization
from neuroglot.models.tokenization import beginning, encode, pieces


def test_bos_stands_where_the_tokenizer_puts_it_and_can_be_overridden():
    adds, names = tiny.tokenizer(), tiny.tokenizer()
    names.add_bos_token = False  # as BLOOM and GPT-2: named, not added
    assert beginning(adds) == (256,)
    assert beginning(names) == ()
    assert beginning(names, "always") == (256,)
    assert beginning(adds, "never") == ()
    with pytest.raises(ng.NeuroglotError, match="names no BOS"):
        beginning(tiny.tokenizer(bos=False), "always")


def test_the_first_token_of_a_text_without_bos_is_not_counted_unless_asked():
    network, tokenizer = tiny.network(), tiny.tokenizer(bos=False)
    left_out, counted = ng.Model(network, tokenizer), ng.Model(network, tokenizer, count_first=True)
    assert (left_out.uncounted, counted.uncounted, tiny.model().uncounted) == (1, 0, 1)
    assert left_out.tokenizer_fingerprint != counted.tokenizer_fingerprint
    one, two = (ng.record(m, tiny.corpus(), block=16, progress=False) for m in (left_out, counted))
    assert (one.tokens * 16 == two.tokens * 15).all()


@pytest.mark.parametrize("text", ["a <s> b", "</s>", "<s><s></s>"])
def test_text_that_spells_a_special_token_stays_text(text):
    tokenizer = tiny.tokenizer()
    (ids,) = encode(tokenizer, [text])
    assert not {256, 257} & set(ids)
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_looked_up_once_and_again_when_there_are_more(monkeypatch):
    """Gemma has 6,251: to go through them for each of many short texts took most of the time of tuning and of tasks."""
    tokenizer, asked = tiny.tokenizer(), []
    before = type(tokenizer).added_tokens_decoder
    monkeypatch.setattr(
        type(tokenizer), "added_tokens_decoder", property(lambda self: asked.append(None) or before.fget(self))
    )
    for text in ("a", "b</s>", "<s>c") * 3:
        encode(tokenizer, [text])
    assert len(asked) == 1
    tokenizer.add_tokens(AddedToken("<new>", special=True))
    asked.clear()
    (ids,) = encode(tokenizer, ["a<new>b"])
    assert asked and len(tokenizer) - 1 not in ids and tokenizer.decode(ids) == "a<new>b"
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    (ids,) = encode(tokenizer, ["<pad><new>"])
    assert tokenizer.pad_token_id not in ids and tokenizer.decode(ids) == "<pad><new>"
    encode(tiny.tokenizer(), ["another tokenizer"])
    assert len(asked) >= 3


@given(st.text(alphabet="ab \n\té", max_size=60))
def test_pieces_are_bounded_and_join_to_the_text(text):
    before, tokenization.PIECE = tokenization.PIECE, 7
    try:
        cut = list(pieces(text))
        (ids,) = encode(tiny.tokenizer(), [text])
        (few,) = encode(tiny.tokenizer(), [text], 5)
    finally:
        tokenization.PIECE = before
    assert "".join(cut) == text
    assert all(len(piece) <= 7 for piece in cut)
    assert ids == encode(tiny.tokenizer(), [text])[0]  # a token a byte: the same however it is cut
    assert few == ids[:5]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's peak memory")
def test_a_line_of_ten_megabytes_is_recorded_in_little_memory(tmp_path):
    """The line, the reader's copies of it, and no more: at once it would take 300 bytes a character, 2.8 GiB."""
    model, text = tmp_path / "model", tmp_path / "text"
    tiny.network().save_pretrained(model)
    tiny.tokenizer().save_pretrained(model)
    for directory, times in ((tmp_path / "short", 1_000), (text, 400_000)):
        directory.mkdir()
        (directory / "en.txt").write_text("the cat sat on one mat, " * times)
        (directory / "fr.txt").write_text("le chat est sur un tapis, " * 1_000)
    runs = [
        ["neuroglot", "record", str(model), str(where), "--out", str(tmp_path / f"run-{name}"), "--block", "64",
         "--tokens", str(tokens)] for name, where, tokens in (("a", tmp_path / "short", 5000), ("b", text, 10_000))
    ]  # fmt: skip
    program = f"""
import json, resource, sys
from neuroglot.cli import main
from neuroglot.tokens.shards import token_rows
peaks = []
for arguments in {runs!r}:
    sys.argv = arguments
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
from transformers import AutoTokenizer
line = open({str(text / "en.txt")!r}).read()
count = sum(len(row) for _, row in token_rows(AutoTokenizer.from_pretrained({str(model)!r}), [line]))
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print("peaks", json.dumps([count, *peaks]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, short, long, whole = json.loads(done.stdout.rpartition("peaks ")[2])
    size = 24 * 400_000
    assert count == size + 1
    assert (long - short) * 1024 < 20 * size
    assert (whole - short) * 1024 < 25 * size


@given(st.text(st.sampled_from("a é\n\t"), max_size=60), st.integers(2, 20))
def test_pieces_of_a_text_and_its_end_are_those_of_both_together(text, size):
    assert list(pieces(text, size, end="\n")) == list(pieces(text + "\n", size))
