"""`ProcessPool`: processes that run a pipeline on parts of many inputs, sentence-transformers' multi-process pool.

`encode` of the encoders and `CrossEncoder.predict` run in one where they are given `pool=` or a list of devices. A
pipeline derives from `InProcesses`, and calls `in_chunks` with the name of the method that computes a chunk.

Every worker has a pipe of its own, and at most one chunk at a time: neither side ever waits to write while the other
does, and a worker that dies closes its pipe, which the parent sees at once. There are no queues, whose locks a dying
process may keep.

Source of names and defaults: sentence-transformers 6, base/model.py.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from transformer_fast import functional as F
from transformer_fast.pipelines.text_runs import check_device, check_positive, show_progress

# sentence-transformers' number of processes on CPUs, and what it cuts inputs into: some chunks a worker, so that one
# that is late is not waited for, and not so long that a progress bar stands still.
_WORKERS = 4
_CHUNKS_OF_A_WORKER = 10
_MOST_TEXTS = 5000
# Seconds that a worker has to end after SIGTERM before it is killed.
_PATIENCE = 5.0


class InProcesses:
    """The methods of a pipeline that can run in a pool."""

    def start_multi_process_pool(self, target_devices: Sequence[str] | None = None) -> ProcessPool:
        """Processes with a copy of this pipeline each, for `pool=`; to be stopped, or used in a `with` statement.

        target_devices: "cpu" for each process; None: 4 processes, or as many as `get_num_threads()` says where that is
        less. Each computes with its share of the threads. They are new processes ("spawn"): a script needs
        `if __name__ == "__main__":` around what it does. With `packed_cache` they share the packed weights.

        Raises:
            ValueError: a device is not "cpu".
            TypeError: the pipeline cannot be sent to a process.
            RuntimeError: a process cannot start.

        Example:
            >>> with encoder.start_multi_process_pool(["cpu"] * 2) as pool:                           # doctest: +SKIP
            ...     embeddings = encoder.encode(texts, pool=pool)
        """
        count = min(_WORKERS, F.get_num_threads()) if target_devices is None else checked_devices(target_devices)
        return ProcessPool(self, count)

    @staticmethod
    def stop_multi_process_pool(pool: ProcessPool) -> None:
        """Ends the processes of a pool."""
        pool.close()


def checked_devices(devices: Sequence[str]) -> int:
    """How many processes a list of devices means.

    Raises:
        ValueError: it is empty, or one is not "cpu".
    """
    if isinstance(devices, str) or not len(devices):
        raise ValueError(f"target_devices is {devices!r}; needed: a list of 'cpu', one for each process")
    for device in devices:
        check_device(device)
    return len(devices)


@contextmanager
def opened(
    pipeline: Any, device: Any, pool: ProcessPool | None, chunk_size: int | None
) -> Iterator[ProcessPool | None]:
    """The pool that a call is to run in: `pool`, or one for this call where device is a list; None: in this process.

    Raises:
        ValueError: the three do not fit each other.
    """
    listed = isinstance(device, (list, tuple))
    if not listed:
        check_device(device)
    if pool is not None and not isinstance(pool, ProcessPool):
        raise ValueError(f"pool is {pool!r}; needed: what start_multi_process_pool() returned")
    if pool is not None and listed:
        raise ValueError(f"pool is {pool!r} and device is {device!r}; needed: one of them")
    if chunk_size is not None:
        if pool is None and not listed:
            raise ValueError(f"chunk_size is {chunk_size!r}; needed: pool or a list of devices, whose chunks it is of")
        check_positive("chunk_size", chunk_size)
    if listed:
        with ProcessPool(pipeline, checked_devices(device)) as own:
            yield own
    else:
        yield pool


def in_chunks(
    pipeline: Any,
    method: str,
    inputs: Sequence[Any],
    arguments: Sequence[Any],
    batch_size: int,
    show_progress_bar: bool | None,
    device: Any,
    pool: ProcessPool | None,
    chunk_size: int | None,
) -> Iterator[tuple[slice, Any]]:
    """Each chunk and `pipeline.method(inputs[chunk], *arguments)`, in the order in which they are done.

    Without a pool it is one chunk, and the method gets progress= as well, to tell of each run of texts.

    Raises:
        Exception: as `opened`, `ProcessPool.results` and the method.
    """
    with (
        opened(pipeline, device, pool, chunk_size) as workers,
        show_progress(len(inputs), show_progress_bar) as progress,
    ):
        if workers is None:
            yield slice(0, len(inputs)), getattr(pipeline, method)(inputs, *arguments, progress=progress)
            return
        chunks = workers.chunks(len(inputs), batch_size, chunk_size)
        with closing(workers.results(pipeline, method, inputs, chunks, *arguments)) as parts:
            for chunk, part in parts:
                yield chunk, part
                progress.update(chunk.stop - chunk.start)


@dataclass(eq=False)
class _Worker:
    """One process. loaded: the pickle of the pipeline that it has. busy: a chunk is with it."""

    process: BaseProcess
    connection: Connection
    loaded: bytes | None = None
    busy: bool = field(default=False)


class ProcessPool:
    """Processes that run a pipeline; made by `start_multi_process_pool`, ended by `close` or a `with` statement.

    Calls of several threads run one after the other. The processes end with the one that made them, however it ends.

    Attributes:
        processes: the `multiprocessing` processes.
    """

    def __init__(self, pipeline: Any, count: int) -> None:
        self._owner, self._lock, self._call = os.getpid(), threading.Lock(), 0
        self._workers: list[_Worker] = []
        self._closed = False
        content, threads = _pickled(pipeline), max(F.get_num_threads() // count, 1)
        self._isa = F.get_isa()
        context = multiprocessing.get_context("spawn")
        try:
            for _ in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_work, args=(there, threads), daemon=True)
                try:
                    process.start()
                finally:
                    there.close()
                self._workers.append(_Worker(process, here))
            for worker in self._workers:
                self._send(worker, content, -1, None, ())
            for worker in self._workers:
                self._receive(worker)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[BaseProcess]:
        return [worker.process for worker in self._workers]

    def chunks(self, count: int, batch_size: int, chunk_size: int | None) -> list[slice]:
        """How `count` inputs are cut; chunk_size None: ten chunks a worker, of a batch at least."""
        share = math.ceil(count / len(self._workers))
        if chunk_size is None:
            chunk_size = max(min(share, batch_size), min(math.ceil(share / _CHUNKS_OF_A_WORKER), _MOST_TEXTS), 1)
        return [slice(first, min(first + chunk_size, count)) for first in range(0, count, chunk_size)]

    def results(
        self, pipeline: Any, method: str, inputs: Sequence[Any], chunks: Sequence[slice], *arguments: Any
    ) -> Iterator[tuple[slice, Any]]:
        """Each chunk and `pipeline.method(inputs[chunk], *arguments)`, in the order in which they are done.

        Workers get the pipeline as it is now if it has changed since they got theirs. After an error of the method the
        pool may be used again; a worker that died and Ctrl-C close it.

        Raises:
            TypeError: the pipeline or an argument is no object that pickles.
            RuntimeError: a worker has died, or the pool is closed or another process' one.
            Exception: what the method raised.
        """
        content = _pickled(pipeline)
        _check_arguments(arguments)
        if os.getpid() != self._owner:  # before the lock, which a fork may have left locked
            raise RuntimeError(f"the pool is one of the process {self._owner}; needed: one that this process started")
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed; needed: one that is not stopped")
            self._call += 1
            self._isa = F.get_isa()  # that of the caller, whose bits results have
            try:
                yield from self._results(content, method, inputs, chunks, arguments)
            except (Exception, GeneratorExit):
                raise
            except BaseException:  # Ctrl-C, perhaps in the middle of a message
                self.close()
                raise

    def _results(
        self, content: bytes, method: str, inputs: Sequence[Any], chunks: Sequence[slice], arguments: tuple
    ) -> Iterator[tuple[slice, Any]]:
        waiting, missing = iter(enumerate(chunks)), len(chunks)
        while missing:
            for worker in self._workers:
                if not worker.busy and (following := next(waiting, None)) is not None:
                    self._send(worker, content, following[0], method, (inputs[following[1]], *arguments))
            for connection in wait([worker.connection for worker in self._workers if worker.busy]):
                worker = next(worker for worker in self._workers if worker.connection is connection)
                call, number, result = self._receive(worker)
                if call == self._call:  # not one that a call left behind that ended early
                    missing -= 1
                    yield chunks[number], result

    def _send(self, worker: _Worker, content: bytes, number: int, method: str | None, arguments: tuple) -> None:
        told = None if worker.loaded == content else content
        try:
            worker.connection.send((self._call, number, told, self._isa, method, arguments))
        except OSError:
            raise self._died(worker) from None
        worker.busy, worker.loaded = True, content

    def _receive(self, worker: _Worker) -> tuple[int, int, Any]:
        try:
            call, number, result, error = worker.connection.recv()
        except (EOFError, OSError):
            raise self._died(worker) from None
        worker.busy = False
        if error is None:
            return call, number, result
        error, text, lacks_pipeline = error
        if lacks_pipeline:
            worker.loaded = None
        if call != self._call:
            return call, number, None
        raise error from RuntimeError(f"in the process {worker.process.pid}:\n{text}")

    def _died(self, worker: _Worker) -> RuntimeError:
        worker.process.join(_PATIENCE)
        code, ready = worker.process.exitcode, self._call > 0
        self.close()
        hint = "" if ready else '; a script that starts processes needs `if __name__ == "__main__":`'
        return RuntimeError(f"a process of the pool ended with exit code {code}, and the pool is closed{hint}")

    def close(self) -> None:
        """Ends the processes; chunks that are being computed are lost."""
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ProcessPool({len(self._workers)} processes{', closed' if self._closed else ''})"


def _pickled(pipeline: Any) -> bytes:
    try:
        return pickle.dumps(pipeline, pickle.HIGHEST_PROTOCOL)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        found = (name for name, value in vars(pipeline).items() if not _is_picklable(value))
        name = next(found, None)
        what = type(pipeline).__name__ if name is None else f"{type(pipeline).__name__}.{name}"
        raise TypeError(f"{what} cannot be sent to another process, being no object that pickles: {error}") from None


def _check_arguments(arguments: Sequence[Any]) -> None:
    for argument in arguments:
        try:
            pickle.dumps(argument)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise TypeError(
                f"a {type(argument).__name__} cannot be sent to another process, being no object that pickles: {error}"
            ) from None


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError):
        return False
    return True


def _work(connection: Connection, threads: int) -> None:
    """What a process does: chunk after chunk, until its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    F.set_num_threads(threads)
    pipeline = None
    while True:
        try:
            call, number, content, isa, method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        result, error = None, None
        try:
            F.set_isa(isa)
            if content is not None:
                pipeline = None
                pipeline = pickle.loads(content)
            if method is not None:
                result = getattr(pipeline, method)(*arguments)
        except Exception as raised:
            error = (_sendable(raised), traceback.format_exc(), pipeline is None)
        try:
            connection.send((call, number, result, error))
        except OSError:
            return


def _sendable(error: Exception) -> Exception:
    """The error, or one with its text where it does not survive a pickle."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
