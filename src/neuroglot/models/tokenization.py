"""How text becomes tokens: what a text begins with, that nothing in it is special, and how long ones are cut.

The one place that says so for every part that reads text: recording, perplexity, samples, generation, tuning. Nothing
here imports torch, since processes that only read text use it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.models.sources import Bos

__all__ = [
    "PIECE",
    "Bos",
    "TextReader",
    "beginning",
    "check_vocabulary",
    "encode",
    "known_tokens",
    "padding_token",
    "pieces",
    "reads_letters",
]


PIECE = 1 << 18
"""Characters of a document that are tokenised at once: a tokenizer needs some 300 bytes for each."""


@dataclass(frozen=True)
class TextReader:
    """How a model reads text, by its tokenizer and config alone: what a `Model` says of it, before weights are opened.

    Attributes:
        name: of the model.
        tokenizer: its own.
        begin: the tokens that stand before every text.
        uncounted: how many tokens at the start of a block no statistic counts.
        context: how many tokens it can read at once, where its config says so.
        vocabulary: how many tokens it knows.
    """

    name: str
    tokenizer: Any
    begin: tuple[int, ...]
    uncounted: int
    context: int | None
    vocabulary: int

    def encode(self, texts: Iterable[str], limit: int | None = None) -> list[list[int]]:
        """The tokens of each text, at most `limit`; see `encode`.

        Raises:
            NeuroglotError: the model does not know one.
        """
        return known_tokens(self, texts, limit)


def reads_letters(tokenizer: Any) -> bool:
    """Whether any token but the special ones has a letter or a digit: a tokenizer without its files has none."""
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    words = (word for word in tokenizer.get_vocab() if word not in special)
    return any(isinstance(word, bytes) or any(map(str.isalnum, word)) for word in words)


def beginning(tokenizer: Any, bos: Bos = "auto") -> tuple[int, ...]:
    """The tokens that stand before every text: BOS, as a rule, or nothing.

    Args:
        tokenizer: whose.
        bos: `auto` is the tokenizer's own rule: what it puts before a text when it is asked for special tokens. A
            tokenizer that only names a BOS (BLOOM, GPT-2, SmolLM2) adds none. `always` is the BOS that it names, and
            `never` is nothing.

    Raises:
        NeuroglotError: `always`, but the tokenizer names no BOS.
    """
    if bos == "never":
        return ()
    if bos == "always":
        if tokenizer.bos_token_id is None:
            raise NeuroglotError("The tokenizer names no BOS, so none can be put before a text; leave bos at auto.")
        return (int(tokenizer.bos_token_id),)
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    dressed = list(tokenizer("a")["input_ids"])
    for start in range(len(dressed) - len(bare) + 1):
        if dressed[start : start + len(bare)] == bare:
            return tuple(int(token) for token in dressed[:start])
    return ()


def padding_token(model: Any) -> int:
    """A token to fill short rows with, where it is masked: one that has an embedding.

    Args:
        model: with its `tokenizer`, and a `vocabulary` of so many embeddings. A padding token that was added to the
            tokenizer by hand may be beyond them.
    """
    named = (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id)
    return next((token for token in named if token is not None and 0 <= token < model.vocabulary), 0)


def check_vocabulary(row: Sequence[int] | np.ndarray, vocabulary: int, model: str) -> None:
    """Refuse tokens that the model does not know.

    Raises:
        NeuroglotError: there is one.
    """
    if len(row) and (last := int(np.max(row))) >= vocabulary:
        raise NeuroglotError(
            f"The tokenizer gives token {last}, but the model {model} knows {vocabulary}; they do not belong together."
        )


def encode(tokenizer: Any, texts: Iterable[str], limit: int | None = None) -> list[list[int]]:
    """The tokens of texts, without special ones: a text that spells `<s>` or `<|endoftext|>` is read as it stands.

    A text of more than 262,144 characters is tokenised in the `pieces` that it is cut into.

    Args:
        tokenizer: of the model.
        texts: to tokenise.
        limit: at most so many tokens of each; the rest of a long text is not read.
    """
    texts = list(texts)
    if any(len(text) > PIECE for text in texts):
        return [_long(tokenizer, text, limit) for text in texts]
    return [ids[:limit] for ids in _plain(tokenizer, texts)]


def known_tokens(model: Any, texts: Iterable[str], limit: int | None = None) -> list[list[int]]:
    """What `encode` gives for a model or a `TextReader`.

    Raises:
        NeuroglotError: the model does not know a token.
    """
    rows = encode(model.tokenizer, texts, limit)
    check_vocabulary([max(row) for row in rows if row], model.vocabulary, model.name)
    return rows


def pieces(text: str, size: int | None = None, end: str = "") -> Iterator[str]:
    """A text in pieces of at most so many characters, 262,144 by default; most are whole.

    It is cut after the last line break that a visible character follows, where every tokenizer ends a token of its own
    accord; in a text without one before a blank, and in a text without either anywhere. What it ends with, given apart
    so that a long text is not copied, is part of it.
    """
    start, size = 0, size or PIECE
    while len(text) + len(end) - start > size:
        stop = start + size
        cut = text.rfind("\n", start, stop - 1)
        while cut >= start and text[cut + 1].isspace():
            cut = text.rfind("\n", start, cut)
        cut = cut + 1 if cut >= start else text.rfind(" ", start + 1, stop)
        if cut <= start:
            cut = stop
        yield text[start:cut]
        start = cut
    yield (text[start:] if start else text) + end


def _long(tokenizer: Any, text: str, limit: int | None) -> list[int]:
    ids: list[int] = []
    for piece in pieces(text):
        ids += _plain(tokenizer, [piece])[0]
        if limit is not None and len(ids) >= limit:
            break
    return ids[:limit]


def _plain(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    rows: list[list[int]] = _ids(tokenizer, texts)
    special = _special(tokenizer)
    if not special:
        return rows
    flat = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    if special.keys().isdisjoint(np.unique(flat).tolist()):
        return rows
    # a vocabulary may hold the spelling itself, and merges that lead to it: then it is read in two parts
    return [
        [token for part in _apart(text, special.values()) for token in _ids(tokenizer, [part])[0]]
        if special.keys() & set(row)
        else row
        for text, row in zip(texts, rows, strict=True)
    ]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


_SPECIAL: WeakKeyDictionary[Any, tuple[Any, dict[int, str]]] = WeakKeyDictionary()
"""Of each tokenizer: what it was when they were asked for, and its special tokens."""


def _special(tokenizer: Any) -> dict[int, str]:
    """Special tokens and their spellings. The token for what is unknown stands for text, and so is none of them.

    Some tokenizers have thousands, and texts are often few a call: they are kept until a token is added or named.
    """
    unknown = tokenizer.unk_token_id
    state = (len(tokenizer), tuple(tokenizer.all_special_ids), unknown)
    if (kept := _SPECIAL.get(tokenizer)) is not None and kept[0] == state:
        return kept[1]
    known = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    known |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    special = {index: token for index, token in known.items() if len(token) > 1 and index != unknown}
    _SPECIAL[tokenizer] = state, special
    return special


def _apart(text: str, spellings: Iterable[str]) -> list[str]:
    """The text, cut behind the first character of each spelling in it."""
    cuts = {0, len(text)}
    for spelling in spellings:
        at = text.find(spelling)
        while at >= 0:
            cuts.add(at + 1)
            at = text.find(spelling, at + 1)
    places = sorted(cuts)
    return [text[first:last] for first, last in pairwise(places)]
