"""A tokenizer with fewer tokens that reads a language's text as before."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from neuroglot.errors import NeuroglotError
from neuroglot.models.tokenization import encode, pieces

__all__ = ["Changed", "Needs", "changed", "needed_tokens", "spelled_with", "token_counts", "trim_tokenizer"]

Ids = Int64[np.ndarray, " kept"]

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>$")
_RESERVED = re.compile(r"unused|reserved|placeholder|extra_id|dummy", re.IGNORECASE)
AT_ONCE = 1_000  # texts
_SLOW = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt")


def token_counts(tokenizer: Any, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in texts, read as packing reads them: a line break after each, nothing special."""
    counts: Counter[int] = Counter()
    for some in _together(texts):
        for ids in encode(tokenizer, [piece for text in some for piece in pieces(text + "\n")]):
            counts.update(ids)
    return counts


def spelled_with(tokenizer: Any, letters: Collection[str], tokens: int) -> Ids:
    """The tokens, of the first so many, that stand for whole characters, all of them among these letters.

    What one language's other words would be made of: no token in another script, no special one, no part of a
    character.
    """
    known = set(letters)
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    some = [i for i in range(min(tokens, len(tokenizer))) if i not in special]
    texts = tokenizer.backend_tokenizer.decode_batch([[i] for i in some], skip_special_tokens=False)
    return np.array([i for i, text in zip(some, texts, strict=True) if text and known.issuperset(text)], dtype=np.int64)


class Needs:
    """What a tokenizer needs of its own vocabulary: always, and to build one token.

    Always are every byte token, or, where a tokenizer has no byte fallback, every single character; and the special
    tokens, but for reserved ones that nothing names (`<unused7>`).

    Args:
        tokenizer: of transformers, backed by the tokenizers library.
        named: further ids that always stay, such as those that the model's config names.

    Raises:
        NeuroglotError: the tokenizer is neither BPE nor Unigram, or is not backed by the tokenizers library.
    """

    def __init__(self, tokenizer: Any, named: Collection[int] = ()):
        data = _contents(tokenizer)
        self._ids = _vocabulary(data)
        self._pieces = {i: piece for piece, i in self._ids.items()}
        self._added = {token["id"]: token for token in data["added_tokens"]}
        self._merges = _ranks(data) if data["model"]["type"] == "BPE" else None
        stay = _special(tokenizer, data, self._added) | _fallback(data, self._ids) | {int(i) for i in named}
        self.always: frozenset[int] = frozenset().union(*map(self.of, sorted(stay)))

    def of(self, token: int) -> set[int]:
        """The token itself, if there is one, and those that byte-pair merging passes through on the way to it."""
        if token in self._added or token not in self._pieces:
            return {token} & self._added.keys()
        if self._merges is None or _BYTE.match(self._pieces[token]):
            return {token}
        parts = _derivation(self._pieces[token], self._merges)
        return {token} | {self._ids[part] for part in parts if part in self._ids}


def needed_tokens(tokenizer: Any, used: Collection[int], named: Collection[int] = ()) -> Ids:
    """The tokens that must stay so that text made of `used` tokens is read as before, and any other text at all.

    They are the used ones and what these need, and what the tokenizer always needs. Why that is enough: merging a word
    takes the best merge at every step, and if all the merges that the word took are kept, the best of the kept ones is
    the same at every step. A Unigram tokenizer takes the best segmentation, which stays the best of fewer.

    Args:
        tokenizer: see `Needs`, whose errors these are.
        used: token ids.
        named: further ids that stay.

    Returns:
        Ids in ascending order.
    """
    needs = Needs(tokenizer, named)
    return np.array(sorted(needs.always.union(*(needs.of(int(i)) for i in used))), dtype=np.int64)


def trim_tokenizer(tokenizer: Any, keep: Ids) -> Any:
    """The tokenizer with these tokens only, numbered anew in their order; `needed_tokens` says which must be there.

    Raises:
        NeuroglotError: the tokenizer cannot be rewritten.
    """
    from transformers import AutoTokenizer

    data = _contents(tokenizer)
    new = {int(old): i for i, old in enumerate(keep)}
    model = data["model"]
    vocabulary = _vocabulary(data)
    if model["type"] == "BPE":
        model["vocab"] = {piece: new[i] for piece, i in vocabulary.items() if i in new}
        kept = model["vocab"]
        model["merges"] = [pair for pair in map(_pair, model["merges"]) if _merges(pair, kept)]
    else:
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in new]
        if model.get("unk_id") is not None:
            model["unk_id"] = new[model["unk_id"]]
    data["added_tokens"] = [token | {"id": new[token["id"]]} for token in data["added_tokens"] if token["id"] in new]
    ids = {token["content"]: token["id"] for token in data["added_tokens"]} | _vocabulary(data)
    data["post_processor"] = _renumbered(data.get("post_processor"), ids)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for name in _SLOW:  # the same vocabulary as it was
            Path(folder, name).unlink(missing_ok=True)
        Path(folder, "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        config = Path(folder, "tokenizer_config.json")
        about = json.loads(config.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in about:
            old = about["added_tokens_decoder"]
            about["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in old.items() if int(i) in new}
            config.write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
        trimmed = AutoTokenizer.from_pretrained(folder)
    beyond = set(trimmed.get_vocab()) - set(ids)  # a class may add what the model never had a row for
    right = all(trimmed.convert_tokens_to_ids(piece) == i for piece, i in ids.items())
    if not right or len(ids) != len(keep) or beyond & set(vocabulary) or trimmed.bos_token != tokenizer.bos_token:
        raise NeuroglotError(
            f"This {type(tokenizer).__name__} does not keep to a rewritten tokenizer.json ({len(trimmed):,} tokens in "
            f"place of {len(keep):,}); its vocabulary cannot be trimmed."
        )
    trimmed.name_or_path = tokenizer.name_or_path
    return trimmed


@dataclass(frozen=True)
class Changed:
    """How differently two tokenizers read the same texts.

    Attributes:
        texts: how many were read.
        changed: those that are cut into other tokens.
        before: tokens before.
        after: tokens after.
        lost: texts that the new tokenizer does not give back as they were, though the old one did.
    """

    texts: int
    changed: int
    before: int
    after: int
    lost: int

    @property
    def share(self) -> float:
        """The share of texts that are cut into other tokens."""
        return self.changed / self.texts if self.texts else 0.0


def changed(old: Any, new: Any, keep: Ids, texts: Iterable[str]) -> Changed:
    """Compare a trimmed tokenizer with the one that it was made of."""
    count = different = before = after = lost = 0
    for some in _together(texts):
        for text, was, now in zip(some, encode(old, some), encode(new, some), strict=True):
            count, before, after = count + 1, before + len(was), after + len(now)
            if keep[now].tolist() != was:
                different += 1
                lost += _decoded(new, now) != text and _decoded(old, was) == text
    return Changed(count, different, before, after, lost)


def _together(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _contents(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise NeuroglotError(
            f"{type(tokenizer).__name__} is not backed by the tokenizers library; its vocabulary cannot be trimmed."
        )
    data: dict[str, Any] = json.loads(backend.to_str())
    kind = data["model"]["type"]
    if kind not in ("BPE", "Unigram"):
        raise NeuroglotError(f"A {kind} tokenizer cannot be trimmed; BPE and Unigram tokenizers can.")
    return data


def _vocabulary(data: Mapping[str, Any]) -> dict[str, int]:
    """Piece to id, of the model alone."""
    model = data["model"]
    if model["type"] == "BPE":
        return dict(model["vocab"])
    return {piece: i for i, (piece, _) in enumerate(model["vocab"])}


def _special(tokenizer: Any, data: Mapping[str, Any], added: Mapping[int, Any]) -> set[int]:
    """Special tokens that stay: all but reserved ones that nothing names."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template or "", ensure_ascii=False)
    text += json.dumps(data.get("post_processor"), ensure_ascii=False)
    roles = set(tokenizer.all_special_tokens) | {data["model"].get("unk_token")}
    roles = {token for token in roles if token and not (_RESERVED.search(token) and token not in text)}
    stay = {i for i, token in added.items() if token["special"] and not _RESERVED.search(token["content"])}
    stay |= {i for i, token in added.items() if token["content"] in text or token["content"] in roles}
    stay |= {i for token in roles if (i := tokenizer.convert_tokens_to_ids(token)) is not None}
    if data["model"].get("unk_id") is not None:
        stay.add(data["model"]["unk_id"])
    return stay


def _fallback(data: Mapping[str, Any], vocabulary: Mapping[str, int]) -> set[int]:
    """What any text can be spelled with."""
    from tokenizers.pre_tokenizers import ByteLevel

    if data["model"].get("byte_fallback"):
        return {i for piece, i in vocabulary.items() if _BYTE.match(piece)}
    if '"ByteLevel"' in json.dumps([data.get("pre_tokenizer"), data.get("normalizer")]):
        return {vocabulary[letter] for letter in ByteLevel.alphabet() if letter in vocabulary}
    end = data["model"].get("end_of_word_suffix") or ""
    return {i for piece, i in vocabulary.items() if len(piece) == 1 or (end and len(piece.removesuffix(end)) == 1)}


def _pair(merge: str | list[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _merges(pair: tuple[str, str], kept: Mapping[str, int]) -> bool:
    return pair[0] in kept and pair[1] in kept and "".join(pair) in kept


def _ranks(data: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    if data["model"].get("continuing_subword_prefix"):
        raise NeuroglotError("A BPE tokenizer whose tokens begin with a continuation mark cannot be trimmed.")
    return {_pair(merge): rank for rank, merge in enumerate(data["model"]["merges"])}


def _derivation(piece: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """The pieces that merging passes through on the way from the characters of a piece to as much of it as it can."""
    parts, seen = list(piece), set(piece)
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts)))
        if rank == len(ranks):
            break
        parts[place : place + 2] = ["".join(parts[place : place + 2])]
        seen.add(parts[place])
    return seen


def _renumbered(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor whose special tokens have their new numbers."""
    if isinstance(processor, list):
        return [_renumbered(part, ids) for part in processor]
    if not isinstance(processor, dict):
        return processor
    if "tokens" in processor and "ids" in processor:
        return processor | {"ids": [ids[token] for token in processor["tokens"]]}
    changed = {name: _renumbered(part, ids) for name, part in processor.items()}
    for name in ("sep", "cls"):  # of BERT's and RoBERTa's: a token and its number
        if isinstance(changed.get(name), list) and len(changed[name]) == 2:
            changed[name] = [changed[name][0], ids[changed[name][0]]]
    return changed
