"""Executors for the builder's tasks: in this process, in a pool of processes, or on a Ray cluster.

A task is a module-level function and its argument, both small enough to be sent to another process; large results are
written to files in the stage. Results are returned in the order of the tasks, so the output does not depend on where
the tasks ran. The number of tasks in progress is limited, so that few arguments and results are in memory.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from data_tools.errors import DataToolsError

_MOST_PROCESSES = 1024
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Executor(Protocol):
    """Runs tasks and returns their results in order."""

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Apply `function` to each task and yield the results in order; `tasks` is read only a little ahead.

        Raises:
            DataToolsError: a worker died. Exceptions of the function are also raised here.
        """


def open_executor(workers: int | None = None, ray: str | None = None) -> AbstractContextManager[Executor]:
    """The executor for `workers` processes (None: one per available core), on the Ray cluster at `ray` if given."""
    if ray is not None:
        return RayCluster(ray, workers)
    workers = min(workers or len(os.sched_getaffinity(0)), _MOST_PROCESSES)
    return ProcessPool(workers) if workers > 1 else InProcess()


class InProcess(ExitStack):
    """Runs the tasks one after the other in this process."""

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        return map(function, tasks)


class ProcessPool(ExitStack):
    """A pool of processes on this machine; they end when this process ends, however it ends."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self._workers = workers
        # Forked processes would inherit the locks of Arrow's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
        self.callback(self._pool.shutdown, cancel_futures=True)

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        try:
            futures = (self._pool.submit(function, task) for task in tasks)
            for future in _read_ahead(futures, self._workers):
                yield future.result()
        except BrokenProcessPool:
            raise DataToolsError(
                "a worker process was killed, perhaps for lack of memory: try again, with fewer --workers if it recurs"
            ) from None


class RayCluster(ExitStack):
    """The CPUs of a Ray cluster, or `workers` of them; its nodes must see input and output under the same paths.

    Raises:
        DataToolsError: Ray is not installed, or there is no cluster at `address`.
    """

    def __init__(self, address: str, workers: int | None) -> None:
        super().__init__()
        try:
            import ray
        except ImportError:
            raise DataToolsError("--ray needs Ray: pip install 'transrec[ray]'") from None
        local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **local)
        except Exception as error:  # Ray also raises plain exceptions
            raise DataToolsError(f"no Ray cluster at {address}: {error}") from None
        self._ray = ray
        self._workers = workers or int(ray.cluster_resources().get("CPU", 1))
        self.callback(ray.shutdown)

    def map(self, function: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        errors = self._ray.exceptions
        remote = self._ray.remote(max_retries=0)(_call)
        shared = self._ray.put(function)
        try:
            for reference in _read_ahead((remote.remote(shared, task) for task in tasks), self._workers):
                yield self._ray.get(reference)
        except errors.RayError as error:
            cause = getattr(error, "cause", error)
            if not isinstance(cause, errors.RayError):
                raise cause from None
            reason = str(cause).strip().splitlines()[0]
            raise DataToolsError(f"a Ray worker failed: {reason}; try again, with fewer --workers if it died") from None


def _call(function: Callable[[_Task], _Result], task: _Task) -> _Result:
    pa.set_cpu_count(1)
    return function(task)


def _read_ahead(items: Iterator[_Task], ahead: int) -> Iterator[_Task]:
    """Yield the same items, drawing up to `ahead` of them before they are needed."""
    drawn: deque[_Task] = deque()
    for item in items:
        drawn.append(item)
        if len(drawn) > ahead:
            yield drawn.popleft()
    yield from drawn


def _start_worker() -> None:
    """Set up a worker: one thread, Ctrl-C left to the main process, and exit when the main process ends."""
    pa.set_cpu_count(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
