"""What begins a text, that nothing in it is special, and that long ones are cut where tokens end."""

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

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
