"""Steps of a batch, one after the other: run as they are, or captured once as CUDA graphs and replayed.

A graph holds a whole step, also of a model over several GPUs: the kernels of each layer on its device, and the copies
between devices.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, ref

import torch
from torch import Tensor, nn

from neuroglot.edit.positions import prompt_length
from neuroglot.edit.rows import RowEdits
from neuroglot.generation.fused import fused
from neuroglot.generation.fused_layers import FusedLayers
from neuroglot.generation.state import Rows
from neuroglot.models.architecture.devices import Lane, devices_of, meet
from neuroglot.models.fitting import when_full
from neuroglot.models.model import Model

__all__ = ["Steps", "kept_bytes"]

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Rows that a graph is captured for: few sizes, since each costs two steps of the plain path."""
KEPT_SHARE = 0.3
"""Of the device's memory, that the graphs and the cache of a model may hold between calls."""

logger = logging.getLogger(__name__)
_kept: "WeakKeyDictionary[nn.Module, Steps]" = WeakKeyDictionary()
when_full(_kept.clear)


class Steps:
    """What runs steps: the rows they advance, and the interventions row by row.

    Attributes:
        state: the rows.
        edits: what each is under while it writes.
        refused: why steps are not captured, or nothing.
        unfused: why captured steps have the model's own parts, or nothing.
        read_as_plain: whether the faster parts read a prompt as the model's own do; None until it was tried.
    """

    def __init__(self, model: Model, state: Rows, edits: RowEdits, captured: bool):
        self.model, self.state, self.edits = model, state, edits
        self.captured, self.refused, self.unfused = captured, "", ""
        self.read_as_plain: bool | None = None
        self.layers = FusedLayers.of(model) if captured else None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.pool = torch.cuda.graph_pool_handle() if captured else None
        self.devices = devices_of(model.network)
        self.pools = {device: _pool(device) for device in self.devices[1:]} if captured else {}
        self.key: Any = None
        self.hooks: Any = None

    @classmethod
    def of(
        cls, model: Model, settings: tuple[Any, ...], make: Callable[[], Rows], edits: RowEdits, captured: bool
    ) -> "Steps":
        """New ones, or those of an earlier call just like this: graphs hold addresses, so all must be the same."""
        if not captured:
            return cls(model, make(), edits, False)
        hooks = _hooks(model.network)  # weakly, as all that is kept: it must not keep the model
        weights = [part.data_ptr() for part in (*model.network.parameters(), *model.network.buffers())]
        key = (settings, edits.structure, weights)
        found = _kept.pop(model.network, None)
        if found is not None and found.key == key and found.hooks == hooks:
            found._bind(model)
            found.edits.refill(edits)
            if found.layers is not None:
                found.layers.refresh()
        else:
            del found  # before its memory is needed
            found = cls(model, make(), edits, True)
            found.key, found.hooks = key, hooks
        return found

    def keep(self) -> None:
        """Let a later call have the graphs, unless they hold much memory."""
        if not self.graphs:
            return
        totals = {device: torch.cuda.get_device_properties(device).total_memory for device in self.devices}
        if all(self.state.cache.bytes_on(device) <= KEPT_SHARE * total for device, total in totals.items()):
            _kept[self.model.network] = self
            self._bind(None)

    def _bind(self, model: Any) -> None:
        """Whose steps these are. Between calls nobody's: what is kept by the network must not hold the network."""
        self.model = self.state.model = self.edits.model = model

    @contextmanager
    def reading(self, edits: RowEdits, rows: int) -> Iterator[None]:
        """Put the interventions on prompts in force inside the block, and the faster parts of layers, once proved."""
        if self.layers is not None and self.read_as_plain is None:
            self.read_as_plain = reads_as_plain(self.model, self.layers, edits)
        if self.layers is None or self.refused or self.unfused or not self.read_as_plain:
            with edits.applied(rows):
                yield
        else:
            with self.layers.applied(edits, rows, step=False):
                yield

    def run(self, rows: int, reach: int, steps: int) -> None:
        """Advance the first rows by some steps, which look at the first `reach` places of each row."""
        graph = self._graph(rows) if self.captured else None
        if graph is not None:
            meet(self.devices)
            for _ in range(steps):
                graph.replay()
            meet(self.devices)
            return
        with self.edits.applied(rows):
            for _ in range(steps):
                self.state.step(rows, reach)

    def _graph(self, rows: int) -> torch.cuda.CUDAGraph | None:
        """A graph of at least so many rows; a somewhat larger one does where it is there."""
        size = min(next(size for size in SIZES if size >= min(rows, SIZES[-1])), self.state.slots)
        found = min((other for other in self.graphs if size <= other <= 4 * size), default=None)
        if found is not None:
            return self.graphs[found]
        try:
            self.graphs[size] = self._capture(size)
        except Exception as error:  # whatever an architecture of somebody else's does that a graph cannot hold
            self.captured, self.refused = False, f"{type(error).__name__}: {str(error)[:120]}"
            logger.debug("%s: steps are not captured as a CUDA graph (%s)", self.model.name, self.refused)
            return None
        return self.graphs[size]

    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        state, graph, lane = self.state, torch.cuda.CUDAGraph(), Lane(self.devices)
        stream, *others = lane.streams
        lane.follow()
        with lane.entered(), ExitStack() as stack:
            stack.enter_context(self._quick(size) if self._proved(size) else self.edits.applied(size))
            meet(self.devices)
            stream.synchronize()
            for device, pool in self.pools.items():
                stack.enter_context(torch.cuda.use_mem_pool(pool, device))
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                for other in others:  # which so become part of the capture
                    other.wait_stream(stream)
                state.step(size, state.length)
                for other in others:
                    stream.wait_stream(other)
            finally:
                graph.capture_end()
        lane.lead()
        return graph

    def _proved(self, size: int) -> bool:
        """Whether the faster parts give the logits of the plain step; both are run once, as a capture wants."""
        state = self.state
        done = state.done.clone()
        state.done.fill_(True)  # so that a step writes nothing but what the next one would
        with self.edits.applied(size):
            plain = state.step(size, state.length)
        try:
            with self._quick(size):
                quick = state.step(size, state.length)
        except Exception as error:
            self.unfused = f"{type(error).__name__}: {str(error)[:120]}"
        else:
            written = ~done[:size]
            if bool(written.any()) and not same_logits(self.model, quick[written], plain[written]):
                self.unfused = f"its logits are {float((quick - plain)[written].abs().max()):.2g} away"
        finally:
            state.done.copy_(done)
        if self.unfused:
            logger.debug("%s: a step keeps the model's own parts (%s)", self.model.name, self.unfused)
        return not self.unfused

    @contextmanager
    def _quick(self, size: int) -> Iterator[None]:
        """The interventions on the first rows and the faster parts in force."""
        assert self.layers is not None
        with self.layers.applied(self.edits, size), fused(self.model, self.state, size):
            yield


@torch.inference_mode()
def reads_as_plain(model: Model, layers: FusedLayers, edits: RowEdits) -> bool:
    """Whether a short text, under the interventions on the first prompt, gives the logits of the model's own parts."""
    ids = torch.arange(3, 12, device=model.device)[None] * 7 % model.vocabulary
    with prompt_length(model, ids.shape[1]):
        with edits.applied(1):
            plain = model.network(input_ids=ids, use_cache=False).logits.float()
        try:
            with layers.applied(edits, 1, step=False):
                quick = model.network(input_ids=ids, use_cache=False).logits.float()
            proved = same_logits(model, quick, plain)
        except Exception as error:  # whatever code of others raises
            logger.debug("%s: %s: %s", model.name, type(error).__name__, str(error)[:120])
            proved = False
    if not proved:
        logger.debug("%s: prompts are read by the model's own parts", model.name)
    return proved


def same_logits(model: Model, one: Tensor, other: Tensor) -> bool:
    """Whether two ways to compute logits differ by no more than the model's rounding; not, where one is no number."""
    allowed = (1e-3 if model.network.dtype == torch.float32 else 0.1) * float(other.abs().max())
    return float((one - other).abs().max()) <= allowed


def kept_bytes(model: Model, device: torch.device) -> int:
    """Memory of a device for keys and values that an earlier call left for the next one."""
    found = _kept.get(model.network)
    return 0 if found is None else found.state.cache.bytes_on(device)


def _pool(device: torch.device) -> Any:
    """Memory of a further device that only graphs use; that of the first is torch's affair."""
    with torch.cuda.device(device):
        return torch.cuda.MemPool()


def _hooks(network: nn.Module) -> list[Any]:
    """References to all hooks in force: a graph has in it what they did. One to a hook that is gone equals no other."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [hook for module in network.modules() for kind in kinds for hook in getattr(module, kind).values()]
    return [WeakMethod(hook) if isinstance(hook, MethodType) else ref(hook) for hook in hooks]
