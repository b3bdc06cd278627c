"""The pass over a parallel corpus: every sample on its own, reduced to one vector. `record_samples` makes `Samples`."""

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neuroglot.artifacts.recording import Provenance, Recording
from neuroglot.artifacts.samples import Samples, check_norms, norms_of, read_header
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.models.architecture.hooks import observe_ffn, observe_residual
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.recording.statistics.sums import STATISTICS, Sums
from neuroglot.storage.atomic import atomic_path

__all__ = ["record_samples"]

IN_MEMORY = 1 << 30  # bytes; larger arrays live in a file
Rows = list[list[list[int]]]  # by language, by sample: the tokens, without BOS


def record_samples(
    model: Model,
    corpus: Corpus,
    *,
    samples: int | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    missing: Literal["error", "drop"] = "error",
    states: bool = True,
    statistics: Sequence[str] = (),
    batch_tokens: int | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> Samples:
    """Run every sample of a parallel corpus through the model and keep one vector of each (Zeng et al. 2025, §3.1).

    Samples are never packed. Each begins with BOS where the tokenizer defines one; neither BOS nor padding is
    counted. The language-model head is never run.

    Args:
        model: whose neurons.
        corpus: parallel.
        samples: at most so many.
        seed: draw them at random; by default the first ones are taken.
        max_tokens: cut a sample after so many tokens, BOS not among them; by default a sample that the model cannot
            read is an error.
        missing: what to do with a sample that some language lacks: an `error` that names it, or `drop` it.
        states: keep the mean residual stream of each layer too, for `alignment.ses` and `alignment.dominance`.
        statistics: what to keep besides, as `record` does, over the same tokens: `Samples.recording`.
        batch_tokens: tokens a forward pass, by default 1,024 on a CPU and 16,384 on a GPU; samples of like length go
            together. Changes results by rounding only.
        directory: save the samples there while they are made, without ever holding them in memory; if they are there
            already, of the same model, text and settings, they are opened.
        progress: show a bar.

    Returns:
        The samples, in the order of the corpus. Without a directory, arrays above 1 GiB live in a temporary file.

    Raises:
        NeuroglotError: the corpus is not parallel, a sample is missing, empty or too long, a statistic is unknown, an
            activation is not a number, or `directory` holds other samples.
    """
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise NeuroglotError(f"{unknown} cannot be recorded; choose among {', '.join(STATISTICS)}.")
    batch_tokens = batch_tokens or model.batch_tokens
    keys, texts = _choose(corpus, samples, seed, missing)
    rows = _tokens(model, texts, corpus.languages, keys, max_tokens)
    provenance = Provenance(
        model=model.name, fingerprint=model.fingerprint, tokenizer=model.tokenizer_fingerprint, block=0
    )
    kept = Sums(model.ffns, statistics) if statistics else None
    settings = {
        "fingerprint": provenance.fingerprint,
        "text": hashlib.sha256(repr((keys, rows)).encode()).hexdigest()[:32],
        "languages": list(corpus.languages),
        "states": states,
        "statistics": list(statistics),
        "batch_tokens": batch_tokens,
    }
    shape = (len(corpus.languages), len(keys), model.layers * model.neurons)
    state_shape = (*shape[:2], model.layers, _width(model))

    def fill(vectors: np.ndarray, means: np.ndarray | None) -> Samples:
        recording = _run(model, rows, corpus.languages, keys, vectors, means, kept, batch_tokens, provenance, progress)
        pooled = None if means is None else torch.from_numpy(means)
        return Samples(
            torch.from_numpy(vectors), corpus.languages, tuple(keys), model.layers, pooled, provenance, recording
        )

    if directory is None:
        return fill(_array(shape), _array(state_shape) if states else None)
    path = Path(directory)
    if (path / "samples.json").is_file():
        _check_same(path, settings)
        return Samples.load(path)
    with atomic_path(path) as draft:
        draft.mkdir()

        def mapped(name: str, of: tuple[int, ...]) -> np.ndarray:
            return np.lib.format.open_memmap(draft / name, mode="w+", dtype=np.float32, shape=of)

        made = fill(mapped("vectors.npy", shape), mapped("states.npy", state_shape) if states else None)
        made._write_header(draft, settings)
    return Samples.load(path, check=False)


def _choose(
    corpus: Corpus, samples: int | None, seed: int | None, missing: str
) -> tuple[list[str], list[dict[str, str | None]]]:
    """The keys and texts of the samples to read."""
    if samples is not None and samples < 1:
        raise NeuroglotError(f"samples must be at least 1, not {samples}.")
    keys, texts, dropped = [], [], 0
    for key, text in corpus.samples():
        lacking = [tag for tag, value in text.items() if value is None]
        if lacking and missing == "error":
            raise NeuroglotError(
                f"Sample {key} of {corpus.name} has no text in {', '.join(lacking)}; add it, leave the language out, "
                'or drop such samples with missing="drop".'
            )
        if lacking:
            dropped += 1
            continue
        keys.append(key)
        texts.append(text)
        if samples is not None and seed is None and len(keys) == samples:
            break
    if dropped:
        warnings.warn(
            f"{dropped} samples of {corpus.name} were dropped, since some language lacks them; {len(keys)} are left.",
            NeuroglotWarning,
            stacklevel=3,
        )
    if not keys:
        raise NeuroglotError(f"{corpus.name} has no sample that every language has; leave a language out.")
    if samples is not None and seed is not None:
        drawn = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))[:samples].sort().values
        keys, texts = [keys[i] for i in drawn], [texts[i] for i in drawn]
    return keys, texts


def _tokens(
    model: Model,
    texts: Sequence[dict[str, str | None]],
    languages: Sequence[str],
    keys: Sequence[str],
    max_tokens: int | None,
) -> Rows:
    bos = 0 if model.bos is None else 1
    limit = getattr(model.text_config, "max_position_embeddings", None)
    rows: Rows = []
    for tag in languages:
        encoded = model.tokenizer([text[tag] for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
        cut = [list(ids[:max_tokens]) for ids in encoded]
        for key, ids in zip(keys, cut, strict=True):
            if not ids:
                raise NeuroglotError(f"Sample {key} in {tag} has no tokens; leave it out.")
            if max(ids) >= model.vocabulary:
                raise NeuroglotError(
                    f"The tokenizer gives token {max(ids)}, but the model {model.name} knows {model.vocabulary}; they "
                    "do not belong together."
                )
            if limit and len(ids) + bos > limit:
                raise NeuroglotError(
                    f"Sample {key} in {tag} has {len(ids)} tokens, more than {model.name} can read ({limit} with BOS); "
                    f"cut samples with max_tokens={limit - bos}."
                )
        rows.append(cut)
    return rows


@torch.inference_mode()
def _width(model: Model) -> int:
    """Of the residual stream, which is not always that of the embeddings (OPT-350M)."""
    found: list[int] = []
    with observe_residual(model.ffns[:1], lambda _, states: found.append(states.shape[-1])):
        model.hidden_states(torch.zeros(1, 1, dtype=torch.int64))
    return found[0]


def _array(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in memory, or, if they are many, in a file that goes away with them."""
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        return np.zeros(shape, dtype=np.float32)
    with TemporaryFile() as file:  # which lives as long as it is mapped
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    old = read_header(path)["settings"]
    differing = [name for name, value in settings.items() if old.get(name) != value]
    if differing:
        raise NeuroglotError(
            f"{path} holds samples that differ in {', '.join(differing)}; choose another directory, or delete this "
            "one to record again."
        )


@torch.inference_mode()
def _run(
    model: Model,
    rows: Rows,
    languages: Sequence[str],
    keys: Sequence[str],
    vectors: np.ndarray,
    means: np.ndarray | None,
    kept: Sums | None,
    batch_tokens: int,
    provenance: Provenance,
    progress: bool,
) -> Recording | None:
    """Fill `vectors` (K, n, L·N) and `means` (K, n, L, width), and give the recording of the kept statistics."""
    bos = [] if model.bos is None else [model.bos]
    neurons = model.neurons
    shape = (0, 0)
    device = model.device
    counted = lengths = picked = pooled = pooled_states = torch.empty(0)
    store: Callable[[], None] = lambda: None  # noqa: E731 (keeps the batch before, while the device reads the next)

    def mean(values: Tensor) -> Tensor:
        values = values.reshape(*shape, -1)  # also where a family flattens its tokens
        ones = counted.to(values)  # exact in every type, as the shares of a mean are not
        if values.is_cuda and values.dtype != torch.float32:
            total = torch.bmm(ones, values, out_dtype=torch.float32)
        else:
            total = torch.bmm(ones.float(), values.float())
        return total.squeeze(1).to(device) / lengths

    def observe(layer: int, activation: Tensor, hidden: Tensor) -> None:
        pooled[:, layer * neurons : (layer + 1) * neurons] = mean(hidden)
        if kept is not None:
            kept.add(layer, of_counted(activation), of_counted(hidden))

    def of_counted(values: Tensor) -> Tensor:
        if not len(picked):  # all of one length
            return values.view(*shape, -1)[:, len(bos) :]
        return values.reshape(shape[0] * shape[1], -1).index_select(0, picked.to(values.device))[None]

    def observe_states(layer: int, states: Tensor) -> None:
        pooled_states[:, layer] = mean(states)

    def sent(k: int, batch: list[int]) -> Callable[[], None]:
        """Send a batch's vectors to the host; what is given waits until they are there, and stores them."""
        norms = norms_of(pooled)
        apart = device.type == "cuda"
        here = [each.to("cpu", non_blocking=apart) for each in (norms, pooled / norms.to(pooled.dtype), pooled_states)]
        arrived = torch.cuda.current_stream(device).record_event() if apart else None

        def store() -> None:
            if arrived is not None:
                arrived.synchronize()
            check_norms(here[0][None], languages[k : k + 1], [keys[i] for i in batch])
            vectors[k, batch] = here[1].numpy()
            if means is not None:
                means[k, batch] = here[2].numpy()

        return store

    recordings = []
    total = sum(len(bos) + len(ids) for of_language in rows for ids in of_language)
    with token_progress("samples", total, shown=progress) as advance, ExitStack() as stack:
        stack.enter_context(observe_ffn(model.ffns, observe))
        if means is not None:
            stack.enter_context(observe_residual(model.ffns, observe_states))
        for k, (tag, of_language) in enumerate(zip(languages, rows, strict=True)):
            for batch in _batches([len(bos) + len(ids) for ids in of_language], batch_tokens):
                texts = [bos + of_language[i] for i in batch]
                shape = (len(texts), max(map(len, texts)))
                tokens = torch.tensor([ids + [0] * (shape[1] - len(ids)) for ids in texts])
                ends = torch.tensor([len(ids) for ids in texts])[:, None]
                mask = torch.arange(shape[1])[None] < ends
                counting = mask & (torch.arange(shape[1])[None] >= len(bos))
                even = bool(mask.all())
                picked = torch.empty(0) if even else counting.flatten().nonzero().squeeze(1).to(device)
                counted, lengths = counting[:, None].to(device), (ends - len(bos)).to(device)
                # on the device until all layers are read: a copy a layer would make it wait for each of them
                pooled = torch.empty(len(batch), vectors.shape[2], device=device)
                if means is not None:
                    pooled_states = torch.empty(len(batch), *means.shape[2:], device=device)
                model.hidden_states(tokens, None if even else mask.long())
                store()
                store = sent(k, batch)
                advance(int(mask.sum()), tag)
            store()
            store = lambda: None  # noqa: E731
            if kept is not None:
                count = torch.tensor([sum(map(len, of_language))])
                sums = {name: total.unsqueeze(-1) for name, total in kept.flush().items()}
                recordings.append(Recording((tag,), count, sums, provenance))
    return Recording.merge(recordings) if recordings else None


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Samples of like length together, at most `batch_tokens` tokens with padding (or one sample)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
