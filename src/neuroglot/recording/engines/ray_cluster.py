"""Recording on many workers, hosts and GPUs through Ray: `record(…, engine=RayEngine(workers=8))`.

Each worker is a Ray actor that opens the model once. The caller's process reads the text, hands out shards, stores what
comes back and shows progress; a worker is given its next shard only while fewer than two of its own are on
the way, so that slow storage slows the workers instead of filling memory. A worker may join late or die: its shards
are given to others, and another takes its place.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from neuroglot.artifacts.origin import check_precision
from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError, require
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.recording.worker import Advance, Work, record_shard
from neuroglot.tokens.shard_stream import Shard

__all__ = ["RayEngine"]

ON_THE_WAY = 2  # shards a worker has, so that it never waits for the next
PATIENCE = 3  # workers that a shard may take down with it, or that may fail to begin one after the other


@dataclass(frozen=True)
class RayEngine:
    """Workers on this machine, or on a Ray cluster.

    The model must come from `load_model`, since each worker opens it for itself; on a cluster the same source must be
    there on every host.
    """

    workers: int = 2
    """How many; those that the cluster has no room for yet join when it has."""
    gpus_per_worker: int | None = None
    """GPUs that a worker spreads its model over; by default one if there is any, else none."""
    cpus_per_worker: int | None = None
    """Cores, and so threads, of a worker; by default an equal share of this machine's, or one on a cluster."""
    address: str | None = None
    """Of an existing cluster (`auto`, `ray://host:10001`); by default workers are started on this machine."""
    opening: Mapping[str, Any] | None = None
    """How workers open the model (arguments of `load_model` but for the device); by default as it was opened here, in
    the same precision."""

    @property
    def gpus(self) -> int:
        """GPUs of a worker."""
        return int(torch.cuda.is_available()) if self.gpus_per_worker is None else self.gpus_per_worker

    @property
    def cpus(self) -> int:
        """Cores of a worker."""
        share = 1 if self.address else max(1, (os.cpu_count() or 1) // self.workers)
        return share if self.cpus_per_worker is None else self.cpus_per_worker

    def batch_tokens(self, model: Model) -> int:
        """Tokens a forward pass, unless the settings say so."""
        return 16_384 if self.gpus else 1024

    def run(
        self, model: Model, work: Work, shards: Iterator[Shard], advance: Advance
    ) -> Iterator[tuple[str, Recording]]:
        """The name and the recording of each shard, as they are finished.

        Raises:
            NeuroglotError: Ray is not installed, the cluster cannot be reached or lacks GPUs, the model cannot be
                opened by its workers or is another there, or a shard fails again and again.
        """
        opening = self.opening or model.load_arguments
        if opening is None:
            raise NeuroglotError("Workers open the model themselves; give one that load_model opened from its source.")
        if self.opening is None and opening.get("quantize") is None:  # auto is another on a GPU than on a CPU
            opening = {**opening, "dtype": model.dtype}
        shard = next(shards, None)
        if shard is None:  # nothing is left to do, so nobody is needed
            return
        ray = _import()
        started = self._connect(ray)
        crew = _Crew(ray, self, dict(opening), work)
        try:
            yield from crew.run(shard, shards, advance)
        finally:
            crew.dismiss()
            if started:
                ray.shutdown()

    def _connect(self, ray: Any) -> bool:
        """Reach the cluster, or start one here; whether one was started."""
        if self.workers < 1:
            raise NeuroglotError(f"workers must be at least 1, not {self.workers}.")
        quiet = {"logging_level": "ERROR", "log_to_driver": False}
        started = not ray.is_initialized()
        if started:
            try:
                if self.address:
                    ray.init(address=self.address, **quiet)
                else:
                    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
                    ray.init(address="local", num_cpus=self.workers * self.cpus, include_dashboard=False, **quiet)
            except Exception as error:  # Ray, gRPC and the network each raise their own
                reason = str(error).strip().split("\n")[0]
                where = f"the cluster at {self.address}" if self.address else "Ray on this machine"
                raise NeuroglotError(
                    f"{where} cannot be used ({reason}); check that it runs and its address."
                ) from error
        have = ray.cluster_resources().get("GPU", 0)
        if self.gpus and not self.address and have < self.gpus:
            if started:
                ray.shutdown()
            raise NeuroglotError(f"A worker wants {self.gpus} GPUs and there are {have:g}; ask for fewer a worker.")
        return started


class Worker:
    """One model, on a worker."""

    def __init__(self, opening: dict[str, Any], gpus: int, cpus: int, work: Work):
        torch.set_num_threads(cpus)
        where = {"device_map": "auto"} if gpus > 1 else {"device": "cuda" if gpus else "cpu"}
        self.model = load_model(**{**opening, "device": None, "device_map": None, **where})
        self.work = work
        self.kept = work.kept(self.model)

    def opened(self) -> tuple[str, str]:
        """The fingerprint of its model, and its precision."""
        return self.model.fingerprint, self.model.dtype

    def record(self, shard: Shard) -> Recording:
        """The statistics of a shard."""
        try:
            return record_shard(self.model, shard, self.kept, self.work)
        except BaseException:
            self.kept = self.work.kept(self.model)  # drop what it had summed so far
            raise


class _Crew:
    """The workers of one pass, and what each is doing."""

    def __init__(self, ray: Any, plan: RayEngine, opening: dict[str, Any], work: Work):
        self.ray, self.plan, self.work = ray, plan, work
        kind = ray.remote(num_cpus=plan.cpus, num_gpus=plan.gpus, max_restarts=0)(Worker)
        shared = ray.put(work)
        self._hire: Callable[[], Any] = lambda: kind.remote(opening, plan.gpus, plan.cpus, shared)
        self.starting: dict[Any, Any] = {}  # what tells that it has begun → worker
        self.doing: dict[Any, tuple[Any, Shard]] = {}  # what will be its recording → worker, shard
        self.load: dict[Any, int] = {}  # worker → shards on the way
        self.again: list[Shard] = []
        self.deaths: Counter[str] = Counter()
        self.false_starts = 0

    def hire(self) -> None:
        worker = self._hire()
        self.starting[worker.opened.remote()] = worker

    def dismiss(self) -> None:
        for worker in {*self.load, *self.starting.values()}:
            self.ray.kill(worker)

    def run(self, shard: Shard, shards: Iterator[Shard], advance: Advance) -> Iterator[tuple[str, Recording]]:
        self.again.append(shard)
        for _ in range(self.plan.workers):
            self.hire()
        more = True
        while True:
            while free := [worker for worker, load in self.load.items() if load < ON_THE_WAY]:
                if not self.again and more:
                    following = next(shards, None)
                    more = following is not None
                    self.again += [following] if following else []
                if not self.again:
                    break
                worker = min(free, key=self.load.__getitem__)
                shard = self.again.pop(0)
                self.doing[worker.record.remote(shard)] = (worker, shard)
                self.load[worker] += 1
            if not (self.doing or self.again or more):
                return
            done, _ = self.ray.wait([*self.doing, *self.starting], num_returns=1)
            for reference in done:
                if reference in self.starting:
                    self._begun(reference)
                elif (finished := self._finished(reference)) is not None:
                    advance(finished[1].blocks.numel(), finished[1].language)
                    yield finished[1].name, finished[0]

    def _begun(self, reference: Any) -> None:
        worker = self.starting.pop(reference)
        try:
            fingerprint, dtype = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            cause = getattr(error, "cause", None) or error
            self.false_starts += 1
            if self.false_starts >= PATIENCE or _sentence_of(error) is not None:
                raise _sentence_of(error) or NeuroglotError(
                    f"Workers cannot open the model ({_line(cause)}); give them more memory, or fewer of them."
                ) from error
            self.hire()
            return
        if fingerprint != self.work.provenance.fingerprint:
            raise NeuroglotError(
                f"A worker's {self.work.provenance.model} has other weights than the one here; have the same model "
                "on every host."
            )
        check_precision(self.work.provenance.dtype, dtype, ("The model here", "that of a worker"))
        self.false_starts = 0
        self.load[worker] = 0

    def _finished(self, reference: Any) -> tuple[Recording, Shard] | None:
        worker, shard = self.doing.pop(reference)
        try:
            recording = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise _sentence_of(error) or NeuroglotError(
                f"A worker failed on shard {shard.name} ({_line(error.cause)}); start again to go on."
            ) from error
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError) as error:
            self.deaths[shard.name] += 1
            if self.deaths[shard.name] >= PATIENCE:
                raise NeuroglotError(
                    f"{PATIENCE} workers died on shard {shard.name}, perhaps for lack of memory; give each more, then "
                    "start again to go on."
                ) from error
            self.again.insert(0, shard)
            if self.load.pop(worker, None) is not None:  # the first that is heard of its death
                self.hire()
            return None
        if worker in self.load:
            self.load[worker] -= 1
        return recording, shard


def _sentence_of(error: BaseException) -> NeuroglotError | None:
    """The NeuroglotError that a worker ended with, if it did."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NeuroglotError) and type(seen) is NeuroglotError:
            return seen
        cause = getattr(seen, "cause", None)
        seen = cause if isinstance(cause, BaseException) else seen.__cause__
    return None


def _line(error: BaseException | None) -> str:
    """The last line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")


def _import() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    require("ray.exceptions", "cluster", needed_by="The engine ray")
    return require("ray", "cluster")
