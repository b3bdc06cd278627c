"""The pass over the samples of a parallel corpus: each on its own, its neurons and states reduced to their means."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import RESIDUAL, Recording
from neuroglot.artifacts.samples import check_norms, norms_of
from neuroglot.models.architecture.hooks import observe_ffn, observe_residual
from neuroglot.models.fitting import fitting_tokens, rows_within
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.recording.statistics.sums import StreamSums, Sums

__all__ = ["Rows", "fill"]

Rows = list[list[list[int]]]  # by language, by sample: the tokens, without BOS


@torch.inference_mode()
def fill(
    vectors: np.ndarray,
    states: np.ndarray | None,
    model: Model,
    rows: Rows,
    languages: Sequence[str],
    keys: Sequence[str],
    *,
    statistics: Sequence[str],
    batch_tokens: int,
    provenance: Provenance,
    progress: bool,
) -> Recording | None:
    """Run the samples through the model.

    Args:
        vectors: (K, n, L·N), filled with the mean `hidden` of each sample, of unit norm.
        states: (K, n, L, width), filled with its mean residual stream, unless there is no such array.
        model: whose neurons.
        rows: the samples' tokens.
        languages: of the rows.
        keys: of the samples.
        statistics: what to keep besides, over the same tokens.
        batch_tokens: tokens a forward pass, at most.
        provenance: of the recording.
        progress: whether it is shown.

    Returns:
        The recording of the statistics, if there are any.

    Raises:
        NeuroglotError: an activation is not a number.
    """
    begin = list(model.begin)
    pooling = _Pooling(model, statistics, None if states is None else states.shape[3])
    recordings = []
    total = sum(len(begin) + len(ids) for of_language in rows for ids in of_language)
    with token_progress("samples", total, shown=progress) as advance, ExitStack() as stack:
        pooling.attach(stack)
        for k, (tag, of_language) in enumerate(zip(languages, rows, strict=True)):
            texts = [begin + ids for ids in of_language]
            of_states = None if states is None else states[k]
            read = partial(pooling.read, texts, vectors[k], of_states, tag, keys, advance)
            fitting_tokens(model, read, batch_tokens, least=max(map(len, texts)))
            if pooling.kept is not None:
                skipped = model.uncounted - len(begin)
                count = torch.tensor([sum(len(ids) - skipped for ids in of_language)])
                sums = {name: total.unsqueeze(-1) for name, total in pooling.flush().items()}
                made = Recording((tag,), count, sums, provenance, uneven=model.uneven, experts=model.expert_sizes)
                recordings.append(made)
    return Recording.merge(recordings) if recordings else None


@dataclass(frozen=True)
class _Batch:
    """Some samples side by side, padded to the longest."""

    tokens: Int[Tensor, "samples length"]
    mask: Bool[Tensor, "samples length"] | None
    """What is no padding; None where nothing is padding."""
    read: int
    """Tokens, padding not among them."""
    first: int
    """How many tokens at the start are not counted."""
    counted: Bool[Tensor, "samples 1 length"]
    """What is neither the start nor padding, on the model's device."""
    lengths: Int[Tensor, "samples 1"]
    """Tokens that count, on the model's device."""
    places: Int[Tensor, " tokens"] | None
    """Of the tokens that count among all, on the model's device; None where nothing is padding."""

    @classmethod
    def of(cls, texts: Sequence[list[int]], first: int, device: torch.device) -> "_Batch":
        """The batch of texts whose `first` tokens are not counted."""
        longest = max(map(len, texts))
        ends = torch.tensor([len(ids) for ids in texts])[:, None]
        mask = torch.arange(longest)[None] < ends
        counted = mask & (torch.arange(longest)[None] >= first)
        even = bool(mask.all())
        return cls(
            tokens=torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts]),
            mask=None if even else mask,
            read=int(mask.sum()),
            first=first,
            counted=counted[:, None].to(device),
            lengths=(ends - first).to(device),
            places=None if even else counted.flatten().nonzero().squeeze(1).to(device),
        )

    def mean(self, values: Tensor) -> Tensor:
        """Each sample's mean over the tokens that count, (samples, …) float32 on the model's device."""
        values = values.reshape(*self.tokens.shape, -1)  # also where a family flattens its tokens
        ones = self.counted.to(values)  # exact in every type, as the shares of a mean are not
        if values.is_cuda and values.dtype != torch.float32:
            total = torch.bmm(ones, values, out_dtype=torch.float32)
        else:
            total = torch.bmm(ones.float(), values.float())
        return total.squeeze(1).to(self.lengths.device) / self.lengths

    def text(self, values: Tensor) -> Tensor:
        """The values of the tokens that count, as a statistic takes them."""
        if self.places is None:
            return values.view(*self.tokens.shape, -1)[:, self.first :]
        return values.reshape(self.tokens.numel(), -1).index_select(0, self.places.to(values.device))[None]


class _Pooling:
    """What hooks write while the model reads a batch: the means of its samples, on the device.

    They go to the host once all layers are read: a copy a layer would make the device wait for each of them.
    """

    def __init__(self, model: Model, statistics: Sequence[str], width: int | None):
        self.model, self.statistics, self.width = model, statistics, width
        self._given_up = 0  # tokens that an attempt read
        self._batch: _Batch
        self._vectors = self._states = torch.empty(0)

    def attach(self, stack: ExitStack) -> None:
        """Observe the model until the stack is left."""
        stack.enter_context(observe_ffn(self.model.ffns, self._observe))
        if self.width is not None or RESIDUAL in self.statistics:
            stack.enter_context(observe_residual(self.model.ffns, self._observe_states))

    def read(
        self,
        texts: Sequence[list[int]],
        vectors: np.ndarray,
        states: np.ndarray | None,
        language: str,
        keys: Sequence[str],
        advance: Callable[[int, str], None],
        batch_tokens: int,
    ) -> None:
        """Read all samples of a language into its arrays; what an attempt before has read of them is forgotten."""
        self.kept = Sums(self.model.ffns, self.statistics) if self.statistics else None
        self.stream = StreamSums(self.model.layers) if RESIDUAL in self.statistics else None
        advance(-self._given_up, language)
        self._given_up = 0
        store: Callable[[], None] = lambda: None  # noqa: E731 (keeps the batch before, while the device reads on)
        for chosen in _batches(list(map(len, texts)), batch_tokens):
            batch = _Batch.of([texts[i] for i in chosen], self.model.uncounted, self.model.device)
            self.run(batch)
            store()
            store = self.send(vectors, states, chosen, language, keys)
            self._given_up += batch.read
            advance(batch.read, language)
        store()
        self._given_up = 0

    def run(self, batch: _Batch) -> None:
        """Read a batch."""
        self._batch, count, layers = batch, len(batch.tokens), self.model.layers
        self._vectors = torch.zeros(count, layers * self.model.neurons, device=self.model.device)
        if self.width is not None:
            self._states = torch.empty(count, layers, self.width, device=self.model.device)
        self.model.hidden_states(batch.tokens, None if batch.mask is None else batch.mask.long())

    def _observe(self, layer: int, activation: Tensor, hidden: Tensor) -> None:
        neurons = self.model.neurons
        first, width = layer * neurons, self.model.ffns[layer].neurons  # what lies beyond stays 0
        self._vectors[:, first : first + width] = self._batch.mean(hidden)
        if self.kept is not None:
            self.kept.add(layer, self._batch.text(activation), self._batch.text(hidden))

    def _observe_states(self, layer: int, states: Tensor) -> None:
        if self.width is not None:
            self._states[:, layer] = self._batch.mean(states)
        if self.stream is not None:
            self.stream.add(layer, self._batch.text(states))

    def flush(self) -> dict[str, Tensor]:
        """The statistics of what was read since the last time."""
        assert self.kept is not None
        return self.kept.flush() | (self.stream.flush() if self.stream is not None else {})

    def send(
        self, vectors: np.ndarray, states: np.ndarray | None, chosen: list[int], language: str, keys: Sequence[str]
    ) -> Callable[[], None]:
        """Send the batch to the host; what is given waits until it is there, and stores it in a language's arrays."""
        apart = self.model.device.type == "cuda"
        norms = norms_of(self._vectors)
        unit = self._vectors / norms.to(self._vectors.dtype)
        host = [each.to("cpu", non_blocking=apart) for each in (norms, unit, self._states)]
        arrived = torch.cuda.current_stream(self.model.device).record_event() if apart else None

        def store() -> None:
            if arrived is not None:
                arrived.synchronize()
            check_norms(host[0][None], (language,), [keys[i] for i in chosen])
            vectors[chosen] = host[1].numpy()
            if states is not None:
                states[chosen] = host[2].numpy()

        return store


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Samples of like length together, at most `batch_tokens` tokens with padding (or one sample)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        batch = rows_within(order, lengths, batch_tokens)
        yield batch
        order = order[len(batch) :]
