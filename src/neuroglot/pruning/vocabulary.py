"""Trim a model's vocabulary to what languages use: fewer rows in embedding and head, and a smaller tokenizer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.fitting import fitting_batches
from neuroglot.models.model import Model
from neuroglot.models.vocabulary import Needs, spelled_with, token_counts, trim_tokenizer

__all__ = [
    "TokenRanking",
    "expected_counts",
    "kept_tokens",
    "language_counts",
    "row_parameters",
    "tokens_of_any_text",
    "trimmed",
    "with_tokens_of",
]

Ids = Int64[np.ndarray, " kept"]
Counts = Int64[np.ndarray, " tokens"]
Expected = Float64[np.ndarray, " vocabulary"]
LOGITS_AT_ONCE = 1 << 26  # tokens × vocabulary


def language_counts(model: Model, documents: Iterable[str], language: str) -> Counts:
    """How often each token of the model occurs in a language's text.

    Raises:
        NeuroglotError: no token does.
    """
    found = token_counts(model.tokenizer, documents)
    if not found:
        raise NeuroglotError(f"The text in {language} has no token; give more text.")
    counts = np.zeros(max(model.vocabulary, max(found) + 1), dtype=np.int64)
    counts[list(found)] = list(found.values())
    return counts


@torch.inference_mode()
def expected_counts(model: Model, blocks: Int[Tensor, "blocks block"]) -> Expected:
    """How often the model itself expects each token in a text: the sum of its probabilities over the text's places.

    It ranks tokens that a text of the language might have used and did not.
    """
    total = torch.zeros(model.vocabulary, dtype=torch.float64)
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)

    def expected(part: slice) -> Tensor:
        states = model.hidden_states(blocks[part]).flatten(0, 1).split(size)
        return torch.stack([model.logits(some).float().softmax(-1).sum(0).double().cpu() for some in states]).sum(0)

    for _, found in fitting_batches(model, blocks, None, expected):
        total += found
    return total.numpy()


def kept_tokens(model: Model, counts: Counts, *, size: int | None = None, expected: Expected | None = None) -> Ids:
    """The tokens that a model keeps: the ones its text uses, and all that these and any other text need.

    Args:
        model: whose tokenizer it is.
        counts: how often the text has each token; of a vocabulary's length or shorter.
        size: at most so many tokens in all; the rarest go first. By default every token that occurs stays.
        expected: of `expected_counts`. Where `size` leaves room, tokens that did not occur, but are spelled with the
            characters of those that did, fill it: the most expected ones first.

    Returns:
        Ids in ascending order.

    Raises:
        NeuroglotError: the tokenizer cannot be trimmed, or `size` is less than what must stay.
    """
    ranking = TokenRanking(model, counts)
    if expected is not None and size is not None and size > ranking.used:
        ranking.extend(expected)
    return ranking.within(size)


class TokenRanking:
    """The tokens of a text, the most frequent first, and how many of them fit in a size.

    Args:
        model: whose tokenizer it is.
        counts: how often the text has each token.

    Attributes:
        least: how many tokens any text needs.
        used: how many this one does, with what its tokens are merged from.
    """

    def __init__(self, model: Model, counts: Counts):
        self.model = model
        self._needs = _needs(model)
        found = np.flatnonzero(counts)
        self._occur = found[np.argsort(-counts[found], kind="stable")]
        self._ranked = self._occur
        self._always = _always(model, self._needs)
        self.least = len(self._always)
        self.used = len(self.within(None))

    def extend(self, expected: Expected) -> None:
        """Let tokens follow that did not occur, but are spelled with the characters of those that did."""
        texts = self.model.tokenizer.backend_tokenizer.decode_batch(
            [[int(i)] for i in self._occur], skip_special_tokens=False
        )
        letters = set("".join(texts)) - {"\ufffd"}
        others = np.setdiff1d(spelled_with(self.model.tokenizer, letters, self.model.vocabulary), self._occur)
        self._ranked = np.concatenate([self._occur, others[np.argsort(-expected[others], kind="stable")]])

    def within(self, size: int | None) -> Ids:
        """The first tokens, with what they need, that are at most so many; ids in ascending order.

        Raises:
            NeuroglotError: `size` is less than any text needs.
        """
        if size is not None and size < self.least:
            raise NeuroglotError(
                f"{self.model.name} needs {self.least:,} tokens to read any text at all (bytes, special tokens); keep "
                f"as many, not {size:,}."
            )
        kept = set(self._always)
        for token in self._ranked.tolist():
            more = set() if token in kept else self._needs.of(token) - kept
            if size is not None and len(kept) + len(more) > size:
                break
            kept.update(more)
        return np.array(sorted(kept), dtype=np.int64)


def row_parameters(model: Model) -> int:
    """How many parameters the vocabulary has a token: the embedding's and the head's, a shared one once."""
    tables = _tables(model.network, model.vocabulary)
    weights = {id(weight): weight for module in tables for weight in module.parameters(recurse=False)}
    return sum(weight.numel() for weight in weights.values()) // model.vocabulary


@contextmanager
def trimmed(model: Model, keep: Ids) -> Iterator[Model]:
    """The model with these tokens only, inside the block: its embedding, its head, its tokenizer and its config.

    A text whose tokens are all kept has the states it had; its logits are those of the kept tokens. Save it inside the
    block. Afterwards the model is as it was.

    Args:
        model: whole and in memory.
        keep: of `kept_tokens`.

    Raises:
        NeuroglotError: the tokenizer cannot be rewritten; or a weight other than an embedding and the head has the
            vocabulary's size.
    """
    rows = model.vocabulary
    network = model.network
    index = torch.tensor(keep)
    tables = _tables(network, rows)
    tokenizer, old = _trimmed_tokenizer(model.tokenizer, keep.tobytes()), model.tokenizer
    new = {int(before): i for i, before in enumerate(keep)}
    with ExitStack() as restore:
        sliced: dict[int, nn.Parameter] = {}  # a tied weight is cut once, and stays tied
        for module in tables:
            restore.callback(_cut(module, index, sliced))
        for config in _configs(network):
            for name, value in list(vars(config).items()):
                if name.startswith("vocab_size") and value == rows:
                    restore.callback(_set(config, name, len(keep)))
                elif _names_tokens(name):
                    restore.callback(_set(config, name, _renumbered(value, new)))
        model.tokenizer = tokenizer
        _forget(model)

        def put_back() -> None:
            model.tokenizer = old
            _forget(model)

        restore.callback(put_back)
        yield model


@contextmanager
def with_tokens_of(model: Model, smaller: Model) -> Iterator[Model]:
    """The model with the tokens of one that was trimmed of it, inside the block; as it is where they are the same.

    Raises:
        NeuroglotError: the other has tokens that this one does not.
    """
    wanted, known = smaller.tokenizer.get_vocab(), model.tokenizer.get_vocab()
    if wanted == known:
        yield model
        return
    ids = np.array([known.get(piece, -1) for piece in sorted(wanted, key=wanted.__getitem__)], dtype=np.int64)
    if bool((np.diff(ids, prepend=-1) <= 0).any()):
        raise NeuroglotError(f"{smaller.name} was not made of {model.name}: it has other tokens.")
    with trimmed(model, ids):
        yield model


@lru_cache(maxsize=8)
def _trimmed_tokenizer(tokenizer: Any, ids: bytes) -> Any:
    """Of ids as bytes: making one anew takes seconds, and the same one is asked for at every step of a cut."""
    return trim_tokenizer(tokenizer, np.frombuffer(ids, dtype=np.int64))


def _forget(model: Model) -> None:
    """What was kept of another tokenizer and other weights."""
    model.__dict__.pop("tokenizer_fingerprint", None)
    model.weights_changed()


def tokens_of_any_text(model: Model) -> int:
    """How many tokens no text can do without: bytes, special tokens, and what the configs name."""
    return len(_always(model, _needs(model)))


def _needs(model: Model) -> Needs:
    return Needs(model.tokenizer, [i for i in _named(model) if i < model.vocabulary])


def _always(model: Model, needs: Needs) -> set[int]:
    """A tokenizer may name tokens that the model has no row for."""
    return {i for i in needs.always if i < model.vocabulary}


def _named(model: Model) -> list[int]:
    """Every token id that the model's configs name."""
    found: list[int] = []
    for config in _configs(model.network):
        for name, value in vars(config).items():
            if _names_tokens(name):
                found += _numbers(value)
    return found


def _numbers(value: Any) -> list[int]:
    """The whole numbers in a setting, however deep they lie."""
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else []


def _configs(network: Any) -> list[Any]:
    """The config, the configs inside it, and the generation config."""
    whole = network.config
    inner = [part for part in vars(whole).values() if hasattr(part, "model_type")]
    generation = getattr(network, "generation_config", None)
    return [whole, *inner, *([generation] if generation is not None else [])]


def _names_tokens(name: str) -> bool:
    return name.endswith(("token_id", "token_ids", "token_index", "suppress_tokens"))


def _renumbered(value: Any, new: dict[int, int]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_renumbered(each, new) for each in value if not isinstance(each, int) or each in new]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return new.get(value)
    return value


def _tables(network: Any, rows: int) -> list[nn.Module]:
    """The embeddings and the head; nothing else may have a row a token."""
    head = network.get_output_embeddings()
    found = [module for name, module in network.named_modules() if _is_table(name, module, head, rows)]
    known = {id(weight) for module in found for weight in module.parameters(recurse=False)}
    for name, weight in [*network.named_parameters(), *network.named_buffers()]:
        if id(weight) not in known and rows in weight.shape and "pos" not in name and _says_tokens(name, weight, rows):
            raise NeuroglotError(
                f"{name} has one value a token ({rows:,}) and is neither an embedding nor the head; this model's "
                "vocabulary cannot be trimmed."
            )
    return found


def _is_table(name: str, module: nn.Module, head: Any, rows: int) -> bool:
    if module is head:
        return True
    return isinstance(module, nn.Embedding) and module.num_embeddings == rows and "pos" not in name


def _says_tokens(name: str, weight: Tensor, rows: int) -> bool:
    """Whether a weight of the vocabulary's size is about tokens; in a tiny model a width can be as large by chance."""
    return weight.shape[-1] == rows if weight.ndim < 2 or weight.shape[0] == 1 else "embed" in name or "head" in name


def _cut(module: Any, index: Tensor, sliced: dict[int, nn.Parameter]) -> Callable[[], None]:
    """Keep these rows of an embedding or a head, and give a function that puts all of them back."""
    size = "num_embeddings" if hasattr(module, "num_embeddings") else "out_features"
    undo = [_set(module, size, len(index))]
    for name in ("weight", "bias"):
        whole = getattr(module, name, None)
        if whole is None:
            continue
        if id(whole) not in sliced:
            rows = whole.detach().index_select(0, index.to(whole.device))
            sliced[id(whole)] = nn.Parameter(rows, requires_grad=whole.requires_grad)
        undo.append(_set(module, name, sliced[id(whole)]))
    padding = getattr(module, "padding_idx", None)
    if padding is not None:
        place = (index == padding).nonzero().flatten().tolist()
        undo.append(_set(module, "padding_idx", place[0] if place else None))

    def put_back() -> None:
        for step in undo:
            step()

    return put_back


def _set(thing: Any, name: str, value: Any) -> Callable[[], None]:
    old = getattr(thing, name)
    setattr(thing, name, value)
    return lambda: setattr(thing, name, old)
