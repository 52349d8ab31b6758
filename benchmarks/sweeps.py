"""`make bench-sweep`: a sweep of 64 settings over a million pods, three ways.

Eight of its settings on one process and on two give the speed-up over one core. Then all 64 run on
`--jobs` processes: the first time interrupted after a while (SIGINT), the second time to the end,
from the cache. Where the extra `dask` is installed, all 64 run once more on a local cluster with as
many workers, and both results are compared byte by byte. Exit 1 where bytes differ.

Memory is what the command and all its processes take together at most: the proportional set size,
which counts a page that several share once, sampled four times a second.
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet import pods_of
from sim.trace import save

COMMAND = ("-c", "from sim.cli import main; main()", "sweep")
SAMPLE_S = 0.25
ALL = ("1,2,4,6,8,12,16,24", "0,10,20,30,40,50,60,70")
FEW = ("1,4", "0,20,40,60")
"""Values of WARM_IP_TARGET and of MINIMUM_IP_TARGET to cross."""


@dataclass(frozen=True, slots=True)
class Told:
    """What one command took: seconds, the most MiB at once, and its exit code."""

    seconds: float
    mib: float
    code: int


class Memory:
    """The most that a process and its descendants took at once, in MiB."""

    def __init__(self, pid: int) -> None:
        """Sample this process."""
        self.most_mib = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop sampling; return the most."""
        self._over.set()
        self._thread.join()
        return self.most_mib

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            now = sum(_pss_mib(pid) for pid in _family(self._pid))
            self.most_mib = max(self.most_mib, now)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = " ".join((thread / "children").read_text() for thread in threads).split()
    except OSError:
        return  # It has just ended.
    for child in children:
        yield from _family(int(child))


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


@dataclass(frozen=True, slots=True)
class Load:
    """The pods, how many nodes take them, and a folder for what comes out."""

    trace: Path
    nodes: int
    folder: Path

    def sweep(
        self,
        out: str,
        grid: tuple[str, str],
        *words: str,
        interrupt_after_s: float | None = None,
        root: int | None = None,
    ) -> Told:
        """Run the command; with `interrupt_after_s`, as if Ctrl-C were pressed then.

        `root` is the process whose family's memory counts, by default the command's own.
        """
        command = [sys.executable, *COMMAND, str(self.trace), "--out", str(self.folder / out)]
        command += ["--instance", "m5.4xlarge", "--nodes", str(self.nodes)]
        command += ["--subnet", "10.0.0.0/12", "--no-checks"]
        command += ["--grid", f"WARM_IP_TARGET={grid[0]}", "--grid", f"MINIMUM_IP_TARGET={grid[1]}"]
        started = time.perf_counter()
        process = subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL)
        memory = Memory(process.pid if root is None else root)
        if interrupt_after_s is not None:
            try:
                process.wait(interrupt_after_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
        code = process.wait()
        return Told(time.perf_counter() - started, memory.stop(), code)

    def digests(self, out: str) -> dict[str, str]:
        """Return the digests of a sweep's tables."""
        folder, names = self.folder / out, ("sweep.parquet", "sweep.csv")
        return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@contextmanager
def cluster(workers: int) -> Iterator[str | None]:
    """Yield the address of a local Dask cluster, or None where the extra is not installed."""
    try:
        from distributed import LocalCluster  # noqa: PLC0415 - an optional part
    except ImportError:
        yield None
        return
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as local:
        yield local.scheduler_address


def measure(folder: Path, pods: int, nodes: int, jobs: int) -> Iterator[tuple[str, str]]:
    """Yield what was measured and its figure, as they come."""
    load = Load(folder / "pods.parquet", nodes, folder)
    save(pods_of(pods, nodes=nodes), load.trace)
    seconds = {}
    for count in (1, jobs):
        told = load.sweep(f"few-{count}", FEW, "--jobs", str(count))
        seconds[count] = told.seconds
        processes = "1 process" if count == 1 else f"{count} processes"
        yield f"8 settings, {processes}", f"{told.seconds:.0f} s, {told.mib:,.0f} MiB"
    yield f"speed-up of {jobs} processes", f"{seconds[1] / seconds[jobs]:.2f}"
    same = load.digests("few-1") == load.digests(f"few-{jobs}")
    yield "results of one and of several processes", _bytes(same=same)

    own, words = "processes", ("--jobs", str(jobs))
    cut = load.sweep(own, ALL, *words, interrupt_after_s=seconds[jobs])
    kept = len(list((folder / own / "cache").iterdir()))
    yield "64 settings, Ctrl-C", f"after {cut.seconds:.0f} s: exit {cut.code}, {kept} runs kept"
    told = load.sweep(own, ALL, *words)
    yield "64 settings, the rest", f"{told.seconds:.0f} s, {told.mib:,.0f} MiB"
    with cluster(jobs) as address:
        if address is None:
            yield "64 settings on Dask", "not measured: pip install 'warmbench[dask]'"
            return
        told = load.sweep("dask", ALL, "--scheduler", address, root=os.getpid())
    yield f"64 settings, {jobs} Dask workers", f"{told.seconds:.0f} s, {told.mib:,.0f} MiB"
    yield "results of processes and of Dask", _bytes(same=load.digests(own) == load.digests("dask"))


DIFFER = "DIFFER"


def _bytes(*, same: bool) -> str:
    return "equal to the byte" if same else DIFFER


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks.sweeps", description=__doc__)
    parser.add_argument("--pods", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=max(os.cpu_count() or 1, 2))
    parser.add_argument("--folder", type=Path, help="where to leave what was made")
    asked = parser.parse_args()
    made = nullcontext(asked.folder) if asked.folder else tempfile.TemporaryDirectory()
    missed = False
    with made as name:
        folder = Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for what, figure in measure(folder, asked.pods, asked.nodes, asked.jobs):
            print(f"{what}: {figure}", flush=True)
            missed |= figure == DIFFER
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
