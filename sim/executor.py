"""Where the runs of a sweep happen: here, in processes of this machine, or on a Dask cluster.

An executor is given tasks and yields their results as they come; it never raises for a task.
Results depend on the task alone, so that whoever performs them gets the same figures.
"""

import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from sim.cell import Result, Task, code_digest, names_count, perform
from sim.lending import LentTrace, borrow, lend
from sim.trace import Trace

DIED = "its process died: killed, or out of memory"

ANSWER_WITHIN_S = 10
"""How long a Dask cluster may take to answer, and to take the trace."""


class ExecutorError(ValueError):
    """Where runs were to happen they cannot; the message says what to do."""


class Executor(Protocol):
    """Performs tasks on one trace; a context manager, which ends what it started."""

    def __enter__(self) -> Self:
        """Make ready."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End at once what still runs."""
        ...

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield each task's place in the sequence and its result, in whatever order they end."""
        ...


class Here:
    """Performs one task after the other in this process."""

    def __init__(self, trace: Trace) -> None:
        """Replay this trace."""
        self._trace = trace

    def __enter__(self) -> Self:
        """Make ready: nothing to do."""
        return self

    def __exit__(self, *_error: object) -> None:
        """End: nothing to do."""

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield results in the order of the tasks."""
        for index, task in enumerate(tasks):
            yield index, perform(task, self._trace)


class Processes:
    """Performs tasks in processes of this machine, which live as long as the context."""

    def __init__(self, trace: Trace, jobs: int) -> None:
        """Replay this trace in so many processes at a time."""
        self._trace = trace
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._named = False
        """Whether the processes know the names of pods: 60 MB each for a million."""

    def __enter__(self) -> Self:
        """Make ready; processes start with the first task."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Kill the processes: what they are at is not wanted any more."""
        self._end()
        if self._folder is not None:
            self._folder.cleanup()

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield results as they come; a task whose process dies twice, alone at last, is failed."""
        if not self._named and any(map(names_count, tasks)):
            self._end()
            self._named = True
        todo = deque(range(len(tasks)))
        suspects: deque[int] = deque()
        running: dict[Future[Result], int] = {}
        while todo or suspects or running:
            alone = bool(suspects)
            queue = suspects if alone else todo
            # Two a process: none waits for work, and little is lost where one of them dies.
            while queue and len(running) < (1 if alone else 2 * self._jobs):
                index = queue.popleft()
                running[self._submit(tasks[index])] = index
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = False
            for future in sorted(done, key=running.__getitem__):
                index = running.pop(future)
                try:
                    yield index, future.result()
                except BrokenProcessPool:
                    broken = True
                    if alone:
                        yield index, Result({}, DIED)
                    else:
                        suspects.append(index)
            if broken:
                # Nobody knows which task it was: each that was under way is tried alone.
                suspects.extend(sorted(running.values()))
                running.clear()
                self._end()

    def _submit(self, task: Task) -> Future[Result]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._jobs,
                # To fork a process that has threads (numpy, pyarrow, a progress bar) may hang.
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._lent(),),
            )
        # Ctrl-C reaches every process of the terminal; workers inherit that it is held back.
        held_back = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(_perform, task)
        except BrokenProcessPool as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held_back)

    def _lent(self) -> LentTrace:
        trace = self._trace if self._named else replace(self._trace, names=None)
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="warmbench-")
            return lend(trace, Path(self._folder.name) / f"trace-{self._named:d}")
        except OSError as error:
            raise ExecutorError(
                f"processes cannot be handed the trace: {error.strerror}: {error.filename}; "
                "name another folder in TMPDIR, or take --jobs 1"
            ) from None

    def _end(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        # Python before 3.14 has no way to kill workers but the table of them.
        workers = list((pool._processes or {}).values())  # noqa: SLF001
        for worker in workers:
            worker.terminate()
        # The pool's own thread sees that they are gone; left to itself it would still be at it
        # when the interpreter ends, on pipes that are closed.
        pool.shutdown(wait=True, cancel_futures=True)


class _Worker:
    """What a worker process keeps between tasks."""

    trace: Trace


def _begin(lent: LentTrace) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.trace = borrow(lent)


def _end_with_parent() -> None:
    """End in the midst of a task where nobody is left who wants it: the parent was killed."""
    parent = parent_process()
    assert parent is not None, "workers are started by a process"
    parent.join()
    os._exit(1)


def _perform(task: Task) -> Result:
    return perform(task, _Worker.trace)


class Dask:
    """Performs tasks on a Dask cluster; needs the extra `dask`."""

    def __init__(self, trace: Trace, address: str) -> None:
        """Replay this trace on the workers of the scheduler at `address`; raises ExecutorError."""
        self._trace = trace
        self._address = address
        self._client: Any = None
        self._sent: Any = None

    def __enter__(self) -> Self:
        """Connect, and hand the trace to the workers."""
        try:
            from distributed import Client  # noqa: PLC0415 - an optional part
        except ImportError:
            raise ExecutorError(
                "--scheduler needs Dask: pip install 'warmbench[dask]', here and on the workers"
            ) from None
        try:
            self._client = Client(self._address, timeout=ANSWER_WITHIN_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise ExecutorError(f"--scheduler {self._address}: no answer: {error}") from None
        try:
            (self._sent,) = self._client.scatter(
                [self._trace], broadcast=True, hash=False, timeout=ANSWER_WITHIN_S
            )
        except Exception as error:  # noqa: BLE001 - Dask hands on whatever its workers raise
            self.__exit__()
            raise ExecutorError(
                f"--scheduler {self._address}: no worker took the trace: {error}; start workers "
                "that have warmbench[dask] installed"
            ) from None
        return self

    def __exit__(self, *_error: object) -> None:
        """Disconnect; the scheduler forgets what nobody waits for."""
        client, self._client, self._sent = self._client, None, None
        if client is not None:
            client.close()

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield results as they come; a worker with other code than ours fails its tasks."""
        from distributed import as_completed  # noqa: PLC0415 - an optional part

        ours = code_digest()
        futures = {
            self._client.submit(_perform_remotely, task, self._sent, pure=False): index
            for index, task in enumerate(tasks)
        }
        for future in as_completed(futures):
            index = futures.pop(future)
            if future.status != "finished":
                why = f": {future.exception()}" if future.status == "error" else ""
                yield index, Result({}, f"{DIED} ({future.status} on the cluster{why})")
                continue
            code, result = future.result()
            same = code == ours
            yield index, result if same else Result({}, "the worker runs another version")


def _perform_remotely(task: Task, trace: Trace) -> tuple[str, Result]:
    return code_digest(), perform(task, trace)


def executor_for(trace: Trace, *, jobs: int | None, scheduler: str | None) -> Executor:
    """Choose: a Dask cluster where one is named, else `jobs` processes (None: one a core)."""
    if scheduler is not None:
        return Dask(trace, scheduler)
    count = (os.cpu_count() or 1) if jobs is None else jobs
    return Here(trace) if count == 1 else Processes(trace, count)
