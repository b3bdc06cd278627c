"""The pass over a parallel corpus: every sample on its own, reduced to one vector. `record_samples` makes `Samples`."""

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import torch

from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.samples import Samples, read_header
from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.recording.sample_pass import Rows, fill
from neuroglot.recording.statistics.own import check_statistics
from neuroglot.recording.statistics.sums import STATISTICS
from neuroglot.storage.atomic import atomic_path, read_json
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.locks import drop_workplace, workplace
from neuroglot.storage.results import refuse_differing

__all__ = ["check_samples", "record_samples"]

Missing = Literal["error", "drop"]
WORK = "sampling"
IN_MEMORY = 1 << 30  # bytes; larger arrays live in a file


@takes_numbers
def record_samples(
    model: Model,
    corpus: Corpus,
    *,
    samples: int | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    missing: Missing = "error",
    states: bool = True,
    statistics: Sequence[str] = (),
    batch_tokens: int | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> Samples:
    """Run every sample of a parallel corpus through the model and keep one vector of each (Zeng et al. 2025, §3.1).

    Samples are never packed. Each begins with BOS where the tokenizer puts one; neither BOS (without one, the first
    token: see `Model.uncounted`) nor padding is counted. The language-model head is never run.

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
    check_is_corpus(corpus)
    check_statistics(statistics, STATISTICS)
    model.check_state(edited=False)
    batch_tokens = batch_tokens or model.batch_tokens
    keys, texts = _choose(corpus, samples, seed, missing)
    rows = _tokens(model, texts, corpus.languages, keys, max_tokens)
    provenance = Provenance(
        model=model.name, fingerprint=model.fingerprint, tokenizer=model.tokenizer_fingerprint, block=0,
        dtype=model.dtype,
    )  # fmt: skip
    settings = {
        "fingerprint": provenance.fingerprint,
        "dtype": provenance.dtype,
        "text": hashlib.sha256(repr((keys, rows)).encode()).hexdigest()[:32],
        "languages": list(corpus.languages),
        "states": states,
        "statistics": list(statistics),
        "batch_tokens": batch_tokens,
    }
    shape = (len(corpus.languages), len(keys), model.layers * model.neurons)
    state_shape = (*shape[:2], model.layers, model.stream_width if states else 0)

    def made(vectors: np.ndarray, means: np.ndarray | None) -> Samples:
        recording = fill(
            vectors, means, model, rows, corpus.languages, keys,
            statistics=statistics, batch_tokens=batch_tokens, provenance=provenance, progress=progress,
        )  # fmt: skip
        pooled = None if means is None else torch.from_numpy(means)
        return Samples(
            torch.from_numpy(vectors), corpus.languages, tuple(keys), model.layers, pooled, provenance, recording,
            model.uneven,
        )  # fmt: skip

    if directory is None:
        return made(_array(shape), _array(state_shape) if states else None)
    path = Path(directory)
    if (kept := _kept(path, settings, say=False)) is not None:
        drop_workplace(path, WORK)
        return kept
    with workplace(path, WORK):
        if (kept := _kept(path, settings, say=True)) is not None:  # by another process, while this one waited
            return kept
        with atomic_path(path, replaces="samples.json") as draft:
            draft.mkdir()

            def mapped(name: str, of: tuple[int, ...]) -> np.ndarray:
                return np.lib.format.open_memmap(draft / name, mode="w+", dtype=np.float32, shape=of)

            result = made(mapped("vectors.npy", shape), mapped("states.npy", state_shape) if states else None)
            result._write_header(draft, settings)
    return Samples.load(path, check=False)


def check_samples(
    reader: Model | TextReader, corpus: Corpus, *, samples: int | None, max_tokens: int | None, missing: Missing
) -> None:
    """Refuse samples that `record_samples` would refuse, before weights are opened; arguments are as there.

    Raises:
        NeuroglotError: a sample is missing, empty or too long.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NeuroglotWarning)  # said when they are read
        keys, texts = _choose(corpus, samples, None, missing)
    _tokens(reader, texts, corpus.languages, keys, max_tokens)


def _choose(
    corpus: Corpus, samples: int | None, seed: int | None, missing: Missing
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
    model: Model | TextReader,
    texts: Sequence[dict[str, str | None]],
    languages: Sequence[str],
    keys: Sequence[str],
    max_tokens: int | None,
) -> Rows:
    bos = len(model.begin)
    limit = None if model.context is None else model.context - bos
    least = model.uncounted - bos + 1
    if max_tokens is not None and max_tokens < 1:
        raise NeuroglotError(f"max_tokens must be at least 1, not {max_tokens}.")
    rows: Rows = []
    for tag in languages:
        enough = max_tokens or (None if limit is None else limit + 1)  # of one that is too long no more is read
        cut = model.encode([str(text[tag]) for text in texts], enough)
        for key, ids in zip(keys, cut, strict=True):
            if not ids:
                raise NeuroglotError(f"Sample {key} in {tag} has no tokens; leave it out.")
            if len(ids) < least:
                raise NeuroglotError(
                    f"Sample {key} in {tag} has one token only, and {model.name} has no BOS: the first token of a text "
                    "is not counted; leave the sample out, or open the model with count_first."
                )
            if limit is not None and len(ids) > limit:
                raise NeuroglotError(
                    f"Sample {key} in {tag} has more tokens than {model.name} can read ({limit} beside BOS); "
                    f"cut samples with max_tokens={limit}."
                )
        rows.append(cut)
    return rows


def _array(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in memory, or, if they are many, in a file that goes away with them."""
    if 4 * np.prod(shape, dtype=np.int64) <= IN_MEMORY:
        return np.zeros(shape, dtype=np.float32)
    with TemporaryFile() as file:  # which lives as long as it is mapped
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _kept(path: Path, settings: dict[str, Any], say: bool) -> Samples | None:
    """The samples that are there already; None if there are none, or damaged ones, which are to be made again.

    Raises:
        NeuroglotError: they were recorded with other settings.
    """
    header = path / "samples.json"
    if not header.is_file():
        return None
    damaged = f"{header} is damaged; record the samples again."
    if read_json(header) is not None:
        _check_same(path, settings)
        try:
            return Samples.load(path)
        except NeuroglotError as error:
            damaged = str(error)
    if say:
        warnings.warn(f"{damaged} This is done now.", NeuroglotWarning, stacklevel=3)
    return None


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    old = {"dtype": settings["dtype"]} | read_header(path)["settings"]  # earlier ones do not say it
    remedy = "choose another directory, or delete this one to record again"
    refuse_differing(f"{path} holds samples recorded", old, settings, remedy)
