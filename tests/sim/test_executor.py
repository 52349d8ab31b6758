import os
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
import pytest

from cni.settings import parse_assignments
from sim import executor as executors
from sim.cell import CellCache, Result, Task, perform, run_task, trace_digest
from sim.executor import DIED, ExecutorError, Here, Processes
from sim.grid import Cell
from sim.lending import borrow, lend
from sim.scenario import scenario_for
from sim.sources.pods import trace_of
from sim.sources.shapes import generate
from sim.sweep import Bench, by_setting, save, sweep
from sim.trace import Trace
from tests.sim.worlds import grid, scenario

TRACE = generate("minute-jobs", {"duration_s": "600"}, seed=1)


class Counting:
    """Performs tasks here, backwards, until the first that `stop_at` names."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.done = 0
        self.stop_at = stop_at

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace

    def results(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        for index in reversed(range(len(tasks))):
            if self.done == self.stop_at:
                raise KeyboardInterrupt
            self.done += 1
            yield index, perform(tasks[index], TRACE)


def test_processes_give_the_same_bytes(tmp_path: Path) -> None:
    """Parquet and CSV do not tell who computed a sweep, nor in which order."""
    asked = grid("WARM_IP_TARGET=1", "WARM_IP_TARGET=4", seeds=2)
    with Processes(TRACE, 2) as pool:
        save(sweep(Bench(TRACE, pool), asked), tmp_path / "processes")
    save(sweep(Bench(TRACE, Here(TRACE)), asked), tmp_path / "here")
    save(sweep(Bench(TRACE, Counting()), asked), tmp_path / "backwards")
    for name in ("sweep.parquet", "sweep.csv"):
        found = {(tmp_path / by / name).read_bytes() for by in ("processes", "here", "backwards")}
        assert len(found) == 1


def die_or_perform(task: Task) -> Result:
    """Die where the task is the one with seed 1, as if out of memory."""
    if task.scenario.seed == 1:
        os._exit(9)
    return Result({"seed": float(task.scenario.seed)})


def test_a_process_that_dies_fails_its_own_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others stand, even those that were under way in the same pool."""
    monkeypatch.setattr(executors, "_perform", die_or_perform)
    tasks = [run_task(scenario(seed=seed)) for seed in range(4)]
    with Processes(TRACE, 2) as pool:
        found = dict(pool.results(tasks))
    assert found[1] == Result({}, DIED)
    assert [found[seed].figures for seed in (0, 2, 3)] == [{"seed": s} for s in (0.0, 2.0, 3.0)]


def block(_task: Task) -> Result:
    """Take for ever."""
    threading.Event().wait()
    raise AssertionError


KILLED = """
import os, threading
from sim import executor
from tests.sim.test_executor import TRACE, block
from tests.sim.worlds import grid, scenario

executor._perform = block
with executor.Processes(TRACE, 1) as pool:
    thread = threading.Thread(target=lambda: list(pool.results([executor.Task("run", scenario())])))
    thread.start()
    while not pool._pool or not pool._pool._processes:
        pass
    print(*pool._pool._processes, flush=True)
    thread.join()
"""


def test_workers_end_with_a_parent_that_was_killed() -> None:
    """Nobody is left to take what they are at, and they would be at it for minutes."""
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:  # noqa: S603, ours
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([worker], [], [], 60)
    assert ended


def test_an_interrupted_and_a_widened_sweep_go_on(tmp_path: Path) -> None:
    """What was computed is computed once, and the table is the same as without a stop."""
    narrow, wide = grid("WARM_IP_TARGET=1"), grid("WARM_IP_TARGET=1", "WARM_IP_TARGET=4", seeds=2)
    cache = CellCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        sweep(Bench(TRACE, Counting(stop_at=1), cache), narrow)
    assert len(list(tmp_path.iterdir())) == 1
    again = Counting()
    frame = sweep(Bench(TRACE, again, cache), wide)
    # Four runs and one bound, less the one that was computed before.
    assert again.done == 4
    pd.testing.assert_frame_equal(frame, sweep(Bench(TRACE, Counting()), wide))
    third = Counting()
    pd.testing.assert_frame_equal(frame, sweep(Bench(TRACE, third, cache), wide))
    assert third.done == 0


def test_a_failed_cell_is_told_and_the_others_stand(tmp_path: Path) -> None:
    """It keeps its row, with an error and no figures; it is on no front and not cached."""
    asked = (*grid("WARM_IP_TARGET=1"), *grid("WARM_IP_TARGET=1", cidr="10.9.0.0/28"))
    broken = asked[1]
    assert broken.scenario is not None
    bench = Bench(TRACE, Counting(), CellCache(tmp_path))
    many = scenario_for(
        broken.place.node_type,
        parse_assignments([], lenient=False),
        subnets="10.9.0.0/28",
        nodes=99,
    )
    asked = (asked[0], Cell("default", broken.place, many), Cell("x", broken.place, None, "why"))
    frame = sweep(bench, asked)
    assert [error[:13] for error in frame["error"]] == ["", "ScenarioError", "why"]
    assert frame["pods"].isna().tolist() == [False, True, True]
    ranked = by_setting(frame)
    assert ranked["on_front"].tolist() == [True, False, False]
    # Its bound does not depend on the subnet, and so has been computed.
    assert bench.asked == len(list(tmp_path.iterdir())) + 1


def of_two_pools() -> Task:
    """Make a run in which jobs have a node of their own, since pods are told apart by name."""
    made = scenario(nodes=1)
    (pool,) = made.pools
    both = (replace(pool, name="web"), replace(pool, name="jobs", takes=("job-*",)))
    return run_task(replace(made, pools=both))


def named(*names: str) -> Trace:
    """Make a trace of pods that come a second apart and stay."""
    seconds = np.arange(float(len(names)))
    return trace_of(names=names, arrival_s=seconds, life_s=seconds + 500.0, origin="test")


def test_processes_know_names_where_pools_take_pods_by_name() -> None:
    """They are sent only then, also where an earlier batch could do without."""
    trace = named("web-1", "job-1", "job-2")
    task, plain = of_two_pools(), run_task(scenario())
    with Processes(trace, 1) as pool:
        assert [result.error for _, result in pool.results([plain])] == [""]
        assert [result for _, result in pool.results([task])] == [perform(task, trace)]


def test_names_tell_runs_apart_where_they_count(tmp_path: Path) -> None:
    """Pods that go elsewhere by name are another run; where no pool asks they are the same."""
    cache = CellCache(tmp_path)
    for trace, computed in ((named("web-1", "job-1"), 2), (named("job-1", "web-1"), 1)):
        bench = Bench(trace, Here(trace), cache)
        bench.results([of_two_pools(), run_task(scenario())])
        assert bench.computed == computed


def test_a_lent_trace_is_the_same_and_nobody_writes_to_it(tmp_path: Path) -> None:
    """Each column comes back with its type and values, from the file, also once that is gone."""
    lent = lend(TRACE, tmp_path / "trace")
    found = borrow(lent)
    (tmp_path / "trace").unlink()
    assert trace_digest(found) == trace_digest(TRACE)
    assert (found.names, found.origin, found.notes) == (TRACE.names, TRACE.origin, TRACE.notes)
    with pytest.raises(ValueError, match="read-only"):
        found.arrival_s[0] = 1.0


def test_where_no_file_can_be_written_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or missing temporary folder ends in one line that says what to do."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with Processes(TRACE, 2) as pool, pytest.raises(ExecutorError, match="TMPDIR"):
        next(pool.results([run_task(scenario())]))


def test_processes_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace's file goes with the processes, also after an interrupt."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with suppress(KeyboardInterrupt), Processes(TRACE, 1) as pool:
        next(pool.results([run_task(scenario())]))
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
