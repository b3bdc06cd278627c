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
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.models.architecture.devices import devices_of
from neuroglot.models.architecture.families import declare, own_families
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers

__all__ = ["Workers", "spread", "with_workers"]

T = TypeVar("T")

PATIENCE = 3  # workers that a job may take down with it
AHEAD = 3  # jobs a worker that may be done or under way before their results are asked for


class Workers:
    """Processes with a model each.

    Args:
        model: that `load_model` opened; the workers open it from the same source.
        count: how many. On a machine with GPUs worker i takes GPU i, and again from the first where there are fewer;
            without, the cores are shared out.

    Raises:
        NeuroglotError: fewer than one worker is asked for, or the model did not come from `load_model`, or it is spread
            over several devices.
    """

    def __init__(self, model: Model, count: int):
        if count < 1:
            raise NeuroglotError(f"There must be at least 1 worker, not {count}.")
        if model.load_arguments is None:
            raise NeuroglotError("Workers open the model themselves; give one that load_model opened from its source.")
        if len(devices_of(model.network)) > 1:
            raise NeuroglotError(
                f"{model.name} is spread over several devices, and a worker has one; leave out the workers or the "
                "device map, or record with Ray and several GPUs a worker."
            )
        self.model, self.count = model, count
        self._threads = max(1, torch.get_num_threads() // count)
        self._of = ""
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
        self._of = self.model.fingerprint
        queue = _Queue(jobs, AHEAD * self.count)
        busy: set[int] = set()

        def serve_one(place: int) -> None:
            """Keep a worker busy, whatever is done with results meanwhile."""
            while (taken := queue.take()) is not None:
                busy.add(place)
                result = self._done(place, function, taken[1], queue)
                busy.discard(place)
                queue.give(taken[0], result)

        threads = [threading.Thread(target=serve_one, args=(place,), daemon=True) for place in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            yield from queue.results()
        finally:
            queue.stop()
            for place in list(busy):  # nobody waits for these any more
                self._dismiss(place)
            for thread in threads:
                thread.join()

    def _done(self, place: int, function: Callable[..., Any], job: tuple[Any, ...], queue: "_Queue") -> tuple[str, Any]:
        """What a worker answers to a job, and another in its place if it dies."""
        try:
            sent = pickle.dumps((function, job))
        except NeuroglotError as error:
            return "error", error
        except Exception as error:  # whatever pickling raises: an answer that never came would be waited for
            return "error", NeuroglotError(f"This cannot be given to workers ({error}); do it in one process.")
        for _ in range(PATIENCE):
            if queue.stopped:
                break
            if place not in self._crew:
                self._hire(place)
            with suppress(
                OSError, KeyError
            ):  # it died while it had nothing to do, or is dismissed: `_receive` finds it
                self._crew[place][0].send_bytes(sent)
            answer = self._receive(place)
            if answer is not None:
                return answer
        return "error", NeuroglotError(
            f"{PATIENCE} workers died on one piece of the work, perhaps for lack of memory; ask for fewer workers, "
            "then start again to go on."
        )

    def dismiss(self) -> None:
        """End the processes."""
        _end(self._crew)

    def _receive(self, place: int) -> tuple[str, Any] | None:
        """What a worker answers; None if it died."""
        try:
            answer: tuple[str, Any] = pickle.loads(self._crew[place][0].recv_bytes())
        except (EOFError, OSError, KeyError):
            self._dismiss(place)
            return None
        return answer

    def _hire(self, place: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", "from neuroglot.models.workers import serve; serve()", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for us, and we end them; a worker that is opening would print a traceback
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        connection = Connection(ours.detach())
        self._crew[place] = (connection, process)
        gpus = torch.cuda.device_count() if self.model.device.type == "cuda" else 0
        device = f"cuda:{place % gpus}" if gpus else self.model.device.type
        how = dict(self.model.load_arguments or {}) | {"device": device, "device_map": None}
        connection.send_bytes(pickle.dumps((how, self._threads, self._of, own_families())))

    def _dismiss(self, place: int) -> None:
        one = self._crew.pop(place, None)
        if one is not None:
            _end({place: one})


class _Queue:
    """Jobs that several threads take, and their results in the order of the jobs.

    Args:
        jobs: read as they are taken, one at a time.
        ahead: how many may be taken beyond the result that is waited for.
    """

    def __init__(self, jobs: Iterable[tuple[Any, ...]], ahead: int):
        self._jobs, self._ahead = iter(jobs), ahead
        self._changed = threading.Condition()
        self._results: dict[int, tuple[str, Any]] = {}
        self._taken = self._given = 0
        self._ended = self.stopped = False

    def take(self) -> tuple[int, tuple[Any, ...]] | None:
        """The next job with its number; None when there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or self._taken - self._given < self._ahead)
            if self.stopped or self._ended:
                return None
            number = self._taken
            try:
                job = next(self._jobs)
            except StopIteration:
                self._ended = True
                self._changed.notify_all()
                return None
            except BaseException as error:  # whoever waits for results is told
                self._ended, self._taken = True, number + 1
                self._results[number] = ("error", error)
                self._changed.notify_all()
                return None
            self._taken += 1
            return number, job

    def give(self, number: int, result: tuple[str, Any]) -> None:
        """The result of a job."""
        with self._changed:
            self._results[number] = result
            self._changed.notify_all()

    def results(self) -> Iterator[Any]:
        """In order, each as soon as it is there; an error is raised in its place."""
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._given in self._results or (self._ended and self._given == self._taken)
                )
                if self._given not in self._results:
                    return
                kind, value = self._results.pop(self._given)
                self._given += 1
                self._changed.notify_all()
            if kind == "error":
                raise value
            yield value

    def stop(self) -> None:
        """Give no more jobs out."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def _end(crew: dict[int, tuple[Connection, "subprocess.Popen[bytes]"]]) -> None:
    """End these processes; they have nothing to lose."""
    while crew:
        _, (connection, process) = crew.popitem()
        process.kill()  # which ends whoever waits for it, too
        process.wait()
        connection.close()


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
@takes_numbers
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


def show_note(message: Warning | str, category: type[Warning], *args: Any, **named: Any) -> None:
    """Show what is worth a note as the command line does; of what else a library warns, the first process has told."""
    if issubclass(category, NeuroglotWarning):
        print(f"note: {message}", file=sys.stderr, flush=True)


def serve() -> None:
    """What a worker does until its connection ends."""
    connection = Connection(int(sys.argv[1]))
    warnings.showwarning = show_note
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
