"""Sweeps on a Dask cluster: real schedulers and workers, in processes on the loopback."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

from sim import executor as executors
from sim.cell import Result, Task
from sim.executor import DIED, Dask, ExecutorError, Here
from sim.sources.shapes import generate
from sim.sweep import Bench, save, sweep
from tests.sim.worlds import grid

TRACE = generate("minute-jobs", {"duration_s": "600"}, seed=1)


def cluster(workers: int) -> Any:
    """Start a cluster whose workers are processes of their own."""
    return LocalCluster(
        host="127.0.0.1",
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    )


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two workers, for all tests that leave them alive."""
    with cluster(2) as local:
        yield local.scheduler_address


def test_a_cluster_gives_the_same_bytes(address: str, tmp_path: Path) -> None:
    """The tables on disk are equal, whoever performed the runs."""
    asked = grid("WARM_IP_TARGET=1", "WARM_IP_TARGET=4", "MINIMUM_IP_TARGET=8", seeds=2)
    with Here(TRACE) as here, Dask(TRACE, address) as there:
        save(sweep(Bench(TRACE, here), asked), tmp_path / "here")
        save(sweep(Bench(TRACE, there), asked), tmp_path / "there")
    for name in ("sweep.csv", "sweep.parquet"):
        ours, theirs = (tmp_path / where / name for where in ("here", "there"))
        assert ours.read_bytes() == theirs.read_bytes()


def other_code(task: Task, trace: object) -> tuple[str, Result]:
    """Perform as a worker with other code would."""
    del task, trace
    return "another digest", Result({"figure": 1.0}, "")


def fails(task: Task, trace: object) -> tuple[str, Result]:
    """Fail as a worker without warmbench would."""
    del task, trace
    raise ModuleNotFoundError("No module named 'sim'")


def dies(task: Task, trace: object) -> tuple[str, Result]:
    """Die as a worker that the kernel killed."""
    del task, trace
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize(
    ("does", "told"),
    [(other_code, "the worker runs another version"), (fails, "No module named 'sim'")],
)
def test_what_a_worker_cannot_do_is_told(
    does: Any, told: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No figures come from a worker with other code; one without ours says what it lacks."""
    monkeypatch.setattr(executors, "_perform_remotely", does)
    with Dask(TRACE, address) as there:
        ((index, result),) = there.results([some_task()])
    assert (index, result.figures) == (0, {})
    assert told in result.error


def test_workers_that_die_fail_their_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that kills each worker that takes it ends as failed, with the sweep going on."""
    monkeypatch.setattr(executors, "_perform_remotely", dies)
    with cluster(1) as local, Dask(TRACE, local.scheduler_address) as there:
        ((_, result),) = there.results([some_task()])
    assert result.error.startswith(DIED)


def some_task() -> Any:
    """Return what stands for a task where nobody performs it."""
    return None


def test_a_cluster_without_workers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that workers are to be started."""
    monkeypatch.setattr(executors, "ANSWER_WITHIN_S", 0.2)
    with (
        cluster(0) as local,
        pytest.raises(ExecutorError, match="start workers"),
        Dask(TRACE, local.scheduler_address),
    ):
        pass


def test_no_scheduler_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at the address: the option is named."""
    monkeypatch.setattr(executors, "ANSWER_WITHIN_S", 0.2)
    with pytest.raises(ExecutorError, match="--scheduler"), Dask(TRACE, "tcp://127.0.0.1:1"):
        pass


def test_without_dask_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ExecutorError, match="warmbench\\[dask\\]"), Dask(TRACE, "tcp://x:1"):
        pass
