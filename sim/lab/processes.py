"""The processes of a lab: started in a namespace, found again, ended.

Nothing is found by a remembered process id, which may belong to somebody else by now: a process
of a lab is known by the network namespace that it is in, or by its exact command line.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sim.lab.errors import LabError
from sim.lab.namespace import NETNS_DIR

POLL_S = 0.02

_PATIENCE_S = 2.0
_PROC = Path("/proc")


def in_namespaces(names: Iterable[str]) -> tuple[int, ...]:
    """List the processes whose network namespace is one of those, ascending."""
    wanted = set()
    for name in names:
        try:
            found = (NETNS_DIR / name).stat()
        except OSError:
            continue
        wanted.add((found.st_dev, found.st_ino))
    pids = []
    for pid in _all():
        try:
            own = (_PROC / str(pid) / "ns/net").stat()
        except OSError:
            # It has ended, or it is a kernel thread.
            continue
        if (own.st_dev, own.st_ino) in wanted:
            pids.append(pid)
    return tuple(pids)


def with_command(words: Sequence[str]) -> tuple[int, ...]:
    """List the processes whose command line ends in exactly these words, ascending."""
    wanted = [word.encode() for word in words]
    pids = []
    for pid in _all():
        try:
            line = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if line.rstrip(b"\0").split(b"\0")[-len(wanted) :] == wanted:
            pids.append(pid)
    return tuple(pids)


def end(pids: Collection[int], *, patience_s: float) -> None:
    """End processes: SIGTERM, and SIGKILL for those that are left after a while.

    Raises LabError where one outlives even that.
    """
    _signal(pids, signal.SIGTERM)
    left = _wait_gone(pids, patience_s)
    _signal(left, signal.SIGKILL)
    left = _wait_gone(left, 5.0)
    if left:
        raise LabError(f"processes {', '.join(map(str, left))} do not end: look at them with ps")


def end_all_in(names: Iterable[str]) -> None:
    """End every process in those namespaces, a user's own commands among them."""
    end(in_namespaces(names), patience_s=_PATIENCE_S)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _wait_gone(pids: Collection[int], patience_s: float) -> tuple[int, ...]:
    """Wait until they are gone, at most so long; return those that are not."""
    until = time.monotonic() + patience_s
    left = tuple(filter(_lives, pids))
    while left and time.monotonic() < until:
        time.sleep(POLL_S)
        left = tuple(filter(_lives, left))
    return left


def _lives(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    # The state follows the name, which is in brackets and may itself hold some.
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _all() -> list[int]:
    """List every process but this one."""
    found = {int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()}
    return sorted(found - {os.getpid()})
