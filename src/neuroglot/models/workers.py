"""Other processes that hold the same model, one a GPU, and take jobs off one queue.

A worker is a plain process that opens the model as it was opened here and is sent functions with what they need. It
ends when its connection does, so none outlives this process. A worker that dies is replaced, and its job is done again.
Results come in the order of the jobs, whoever did them, so that what is written does not depend on the workers.
"""

import os
import pickle
import socket
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.families import declare, own_families
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model

__all__ = ["Workers", "spread", "with_workers"]

T = TypeVar("T")

PATIENCE = 3  # workers that a job may take down with it


class Workers:
    """Processes with a model each.

    Args:
        model: that `load_model` opened; the workers open it from the same source.
        count: how many. On a machine with GPUs worker i takes GPU i, and again from the first where there are fewer;
            without, the cores are shared out.

    Raises:
        NeuroglotError: fewer than one worker is asked for, or the model did not come from `load_model`.
    """

    def __init__(self, model: Model, count: int):
        if count < 1:
            raise NeuroglotError(f"There must be at least 1 worker, not {count}.")
        if model.load_arguments is None:
            raise NeuroglotError("Workers open the model themselves; give one that load_model opened from its source.")
        self.model, self.count = model, count
        self._crew: dict[int, tuple[Connection, subprocess.Popen[bytes]]] = {}
        weakref.finalize(self, _end, self._crew)

    def run(self, function: Callable[..., T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """What `function(model, *job)` gives for each job, in their order.

        Args:
            function: of a module, so that a worker can import it.
            jobs: its further arguments; read as workers are free, a few ahead of them.

        Raises:
            NeuroglotError: a job raised it, several workers died on one job, or they cannot open the model.
        """
        waiting = enumerate(jobs)
        again: list[tuple[int, tuple[Any, ...]]] = []
        doing: dict[int, tuple[int, tuple[Any, ...]]] = {}
        done: dict[int, T] = {}
        deaths: Counter[int] = Counter()
        following, more = 0, True
        try:
            while more or again or doing or following in done:
                while following in done:
                    yield done.pop(following)
                    following += 1
                for place in range(self.count):
                    if place in doing or len(done) > 2 * self.count:
                        continue
                    job = again.pop(0) if again else next(waiting, None)
                    if job is None:
                        more = False
                        break
                    doing[place] = job
                    for other in range(self.count):  # all open the model at once, before the first is waited for
                        if other not in self._crew:
                            self._hire(other)
                    self._send(place, (function, job[1]))
                if not doing:
                    continue
                for place in self._ready(doing):
                    number, job = doing.pop(place)
                    answer = self._receive(place)
                    if answer is None:
                        deaths[number] += 1
                        if deaths[number] >= PATIENCE:
                            raise NeuroglotError(
                                f"{PATIENCE} workers died on one piece of the work, perhaps for lack of memory; ask "
                                "for fewer workers, then start again to go on."
                            )
                        again.insert(0, (number, job))
                    else:
                        done[number] = answer[0]
        finally:
            for place in doing:  # nobody waits for these any more
                self._dismiss(place)

    def dismiss(self) -> None:
        """End the processes."""
        _end(self._crew)

    def _send(self, place: int, message: Any) -> None:
        with suppress(OSError):  # it died while it had nothing to do, which `_receive` finds
            self._crew[place][0].send_bytes(pickle.dumps(message))

    def _ready(self, places: Iterable[int]) -> list[int]:
        of = {self._crew[place][0]: place for place in places}
        return [of[connection] for connection in wait(list(of)) if isinstance(connection, Connection)]

    def _receive(self, place: int) -> tuple[Any] | None:
        """What a worker answers; None if it died."""
        try:
            kind, value = pickle.loads(self._crew[place][0].recv_bytes())
        except (EOFError, OSError):
            self._dismiss(place)
            return None
        if kind == "error":
            raise value
        return (value,)

    def _hire(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", "from neuroglot.models.workers import serve; serve()", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        connection = Connection(ours.detach())
        self._crew[place] = (connection, process)
        gpus = torch.cuda.device_count() if self.model.device.type == "cuda" else 0
        device = f"cuda:{place % gpus}" if gpus else self.model.device.type
        threads = max(1, torch.get_num_threads() // self.count)
        how = dict(self.model.load_arguments or {}) | {"device": device, "device_map": None}
        connection.send_bytes(pickle.dumps((how, threads, self.model.fingerprint, own_families())))

    def _dismiss(self, place: int) -> None:
        _end({place: self._crew.pop(place)})


def _end(crew: dict[int, tuple[Connection, "subprocess.Popen[bytes]"]]) -> None:
    """End these processes; they have nothing to lose."""
    while crew:
        _, (connection, process) = crew.popitem()
        connection.close()
        process.kill()
        process.wait()


def spread(
    model: Model,
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    advance: Callable[[int, str], None],
    worth: Sequence[tuple[int, str]],
) -> Iterator[T]:
    """`function(model, *job)` of each job, in order: by the model's workers if it has some, else here.

    What is in force on the model is not in force on its workers', so then the work is done here.

    Args:
        model: whose workers.
        function: of a module; its last argument is `advance`, and may be left out.
        jobs: its arguments between.
        advance: called while jobs are done here, by the function; else as each is finished.
        worth: what `advance` is then called with.
    """
    if model.workers is None or any(ffn.edited for ffn in model.ffns):
        for job in jobs:
            yield function(model, *job, advance)
        return
    for told, result in zip(worth, model.workers.run(function, jobs), strict=True):
        advance(*told)
        yield result


@contextmanager
def with_workers(model: Model, count: int) -> Iterator[Model]:
    """Let `count` further processes measure and write for this model inside the block.

    They take what can be shared out: shards of a recording, rows of a matrix, prompts of a queue. Results are those of
    one process.

    Raises:
        NeuroglotError: as `Workers`.
    """
    before, model.workers = model.workers, Workers(model, count)
    try:
        yield model
    finally:
        model.workers.dismiss()
        model.workers = before


def serve() -> None:
    """What a worker does until its connection ends."""
    connection = Connection(int(sys.argv[1]))
    how, threads, fingerprint, families = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(threads)
    declare(*families)
    failed: NeuroglotError | None = None
    model: Model | None = None
    try:
        model = load_model(**how)
        if model.fingerprint != fingerprint:
            raise NeuroglotError(
                f"{model.name} has other weights where its workers open it: what was changed in this process is not "
                "there; save the changed model and open that."
            )
    except NeuroglotError as error:
        failed = error
    while True:
        try:
            function, job = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            if failed is not None:
                raise failed
            answer = ("value", function(model, *job))
        except NeuroglotError as error:
            answer = ("error", NeuroglotError(str(error)))
        connection.send_bytes(pickle.dumps(answer))
