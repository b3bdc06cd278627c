"""The tokenizer that a GGUF file describes, as a fast tokenizer of transformers.

transformers has the builders; they are given what was read here, so that the vocabulary is read once. What a builder
leaves out (how digits are split, which space comes first, what control tokens are) is mended here or refused.
"""

from collections.abc import Callable, Collection
from typing import Any

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_header import Header

__all__ = ["check_tokenizer", "tokenizer_of"]

NORMAL, CONTROL = 1, 3
GPT2_RULE = ("default", "gpt-2", "phi-2", "olmo", "gpt2", "jais", "mpt", "dolma", "roberta-bpe", "jina-es", "jina-de")
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Rules of llama.cpp that cut as GPT-2 does, and besides make each digit a word of its own."""
HARMLESS = {
    "model", "pre", "tokens", "scores", "token_type", "merges", "add_bos_token", "add_eos_token", "add_sep_token",
    "add_space_prefix", "token_type_count",
}  # fmt: skip

LISTS = {"tokens": str, "token_type": int, "scores": float, "merges": str}


def check_tokenizer(header: Header) -> None:
    """Refuse a vocabulary that cannot be one, before anything is built from it.

    Raises:
        NeuroglotError: a key is of another kind than it must be, or the lists are not of one length.
    """
    said = {name: header.keys.get(f"tokenizer.ggml.{name}") for name in LISTS}
    tokens = said["tokens"]
    for name, kind in LISTS.items():
        value = said[name]
        right = value is None or (isinstance(value, list) and all(type(each) is kind for each in value))
        if not right or (value and name != "merges" and len(value) != len(tokens or ())):
            raise NeuroglotError(f"{header.path} has a tokenizer.ggml.{name} that does not fit; it is damaged.")
    for name, value in header.keys.items():
        if name in ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"):
            right = isinstance(value, str)
        else:
            right = type(value) is int or not (name.startswith("tokenizer.ggml.") and name.endswith("_token_id"))
        if not right:
            raise NeuroglotError(f"{header.path} says {name} = {value}; it is damaged.")


def tokenizer_of(header: Header) -> Any:
    """The tokenizer.

    It begins a text with BOS where `tokenizer.ggml.add_bos_token` says so, or, in a SentencePiece vocabulary, does not
    say otherwise, as llama.cpp does.

    Raises:
        NeuroglotError: the file has no vocabulary, or one that is cut into words in a way that is not known.
    """
    from tokenizers import decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    said = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in header.keys.items()
        if name.startswith("tokenizer.ggml.")
    }
    kind, rule = said.get("model"), said.get("pre", "default")
    if kind not in ("gpt2", "llama") or not said.get("tokens"):
        raise NeuroglotError(f"{header.path} has a tokenizer of the kind {kind}, which is not read from GGUF.")
    for name, value in said.items():
        if name not in HARMLESS and not name.endswith(("_token_id", "_token_ids")):
            if name in ("remove_extra_whitespaces", "precompiled_charsmap", "normalizer.lowercase") and not value:
                continue
            raise NeuroglotError(
                f"{header.path} says tokenizer.ggml.{name}, which may change the tokens and is not read from GGUF."
            )
    convert, splits = _converter(header.architecture, kind)
    known = {*GPT2_RULE, *DIGITS_APART, *splits}
    if kind == "gpt2" and rule not in known:
        raise NeuroglotError(
            f"{header.path} cuts text into words by the rule {rule} (tokenizer.ggml.pre), which is not known here; "
            "give the checkpoint that it was made from."
        )
    named = {name: said[key] for key, name in _NAMES.items() if key in said}
    if kind == "llama" and "scores" not in said:
        raise NeuroglotError(f"{header.path} has a SentencePiece vocabulary without scores; it is damaged.")
    if kind == "llama" and "merges" not in named:
        named["merges"] = _merges(header, said)
    if kind == "gpt2":
        named.setdefault("merges", [])  # without any, a character is a token
    backend, _ = convert(header.architecture, named)
    if kind == "gpt2" and rule in DIGITS_APART:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    if kind == "llama" and not header.architecture.startswith("gemma") and not said.get("add_space_prefix", True):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = {
        f"{name}_token": said["tokens"][said[f"{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if 0 <= said.get(f"{key}_token_id", -1) < len(said["tokens"])
    }
    begins = bool(said.get("add_bos_token", kind == "llama")) and "bos_token" in special
    template = header.keys.get("tokenizer.chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=special.pop("bos_token", None),
        eos_token=special.pop("eos_token", None),
        add_bos_token=begins,
        **special,
        **({} if template is None else {"chat_template": template}),
    )


_NAMES = {
    "model": "tokenizer_type", "pre": "pre_tokenizer_type", "tokens": "tokens", "scores": "scores",
    "token_type": "token_type", "merges": "merges", "add_space_prefix": "add_prefix_space",
}  # fmt: skip


def _converter(architecture: str, kind: str) -> tuple[Callable[..., Any], Collection[str]]:
    """What builds a tokenizer from the vocabulary of a GGUF, and the rules of cutting into words that it knows.

    In older releases of transformers (seen in 5.17) the rule went by the architecture, so only an architecture's own
    rule is known there, and what they build from a SentencePiece vocabulary fails at a character that is not in it.

    Raises:
        NeuroglotError: the release is an older one, and the vocabulary of SentencePiece.
    """
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import (
            GGUF_PRE_TOKENIZER_SPLITS,
            convert_gguf_tokenizer,
        )
    except ImportError:
        from transformers.integrations.ggml import convert_gguf_tokenizer

        if kind == "llama":
            raise NeuroglotError(
                "This transformers is too old to read a SentencePiece vocabulary from a GGUF file; "
                "pip install -U transformers."
            ) from None
        return convert_gguf_tokenizer, {"qwen2": ["qwen2"], "qwen3": ["qwen2"]}.get(architecture, [])
    return convert_gguf_tokenizer, GGUF_PRE_TOKENIZER_SPLITS


def _spaced(token: str) -> str:
    """A token of blanks, as Gemma's tokenizer spells it."""
    return "▁" * len(token) if " " in token and not token.strip() else token


def _merges(header: Header, said: dict[str, Any]) -> list[str]:
    """The merges that a SentencePiece vocabulary without any implies: every cut of a token into two others.

    They come in the order of scores (in Gemma's, whose scores do not follow it, of the tokens), then of the lengths of
    their parts. Control tokens are left out, so that no text becomes one of them by merging.
    """
    gemma = header.architecture.startswith("gemma")
    tokens = [_spaced(token) for token in said["tokens"]] if gemma else said["tokens"]
    types = said.get("token_type") or [NORMAL] * len(tokens)
    number = {token: index for index, token in enumerate(tokens)}
    rank = {t: -i for t, i in number.items()} if gemma else dict(zip(tokens, said["scores"], strict=True))
    control = {token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL}
    parts = {token for token in number.keys() - control if " " not in token}  # a text's blanks are ▁ by then
    found: list[tuple[Any, ...]] = []
    for token in number:
        if len(token) < 2 or token not in parts:
            continue
        cuts = [i for i in range(1, len(token)) if token[:i] in parts and token[i:] in parts]
        if len(cuts) > 1:
            cuts.sort(key=lambda i: (number[token[:i]], number[token[i:]]))
        found += [(rank[token], i, len(token) - i, token) for i in cuts]
    found.sort(key=lambda each: each[:3], reverse=True)
    return [f"{token[:i]} {token[i:]}" for _, i, _, token in found]
