"""A box: processes that share a network namespace of a node and end all together.

A container runtime leaves much behind where a test fails in the middle: shims that outlive their
daemon, containers, mounts, sockets below /run, result caches below /var/lib. So it runs in a
process namespace and a mount namespace of its own, whose first process is killed at the end: the
kernel then kills the rest, and the mounts go with the last of them. It takes the box down as well
if the tests themselves are killed.

/run and /var/lib are empty inside, so that two boxes never meet in a fixed path; what a runtime
mounts, the namespaces of its pods among them, is not seen outside. That is how a daemon in a
container sees its node too.
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.node.waiting import wait_until

START_S = 10.0
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = ("nsenter", "setpriv", "unshare")
MOUNTS = """
set -e
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=755 lib /var/lib
mkdir -p /run/lock
: >"$1"
exec "$2"
"""


def missing_programs(*names: str) -> list[str]:
    """Tell which of these programs are not installed."""
    return [name for name in names if shutil.which(name, path=SYSTEM_PATH) is None]


def children_of(pid: int) -> list[int]:
    """List the processes that a process has started, as seen from here; [] if it has ended."""
    try:
        # The main thread's list alone: who is started by another thread is not found, and
        # nsenter and unshare have one thread.
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(child) for child in listed.split()]


class Box:
    """Namespaces for processes and mounts, beside the node's network namespace.

    `name` is unique on the machine, and `folder` is where everything in the box writes. `first` is
    a static program that waits and reaps children: whatever loses its parent becomes its child.
    """

    def __init__(self, name: str, netns: str, folder: Path, first: Path) -> None:
        self.name = name
        self.folder = folder
        self._netns = netns
        self._first = first
        self._unshare: subprocess.Popen[bytes] | None = None

    @property
    def cgroup(self) -> str:
        """The control group below which the runtime puts its containers."""
        return f"/{self.name}"

    def __enter__(self) -> Self:
        ready = self.folder / "box-is-up"
        ready.unlink(missing_ok=True)
        self._unshare = subprocess.Popen(  # noqa: S603, programs of the system
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("nsenter", f"--net=/run/netns/{self._netns}"),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"),
                *("sh", "-c", MOUNTS, "box", str(ready), str(self._first)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": SYSTEM_PATH},
        )
        try:
            wait_until(lambda: ready.exists() or self._ended(), START_S, "the box is up")
            assert not self._ended(), self._why()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start a program in the box; its output goes to `log`.

        What is returned is nsenter, which waits outside for the program inside.
        """
        return subprocess.Popen(  # noqa: S603, programs of the system and of the test
            self._inside(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": SYSTEM_PATH} | dict(environment),
        )

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the box and wait for it; its exit code is the caller's to look at."""
        return subprocess.run(  # noqa: S603, programs of the system and of the test
            self._inside(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": SYSTEM_PATH} | dict(environment),
        )

    def show(self, folder: Path, place: str) -> None:
        """Let a folder be seen in the box at another place too, which is made."""
        shown = self.run(
            ["sh", "-c", 'mkdir -p "$2" && mount --bind "$1" "$2"', "show", str(folder), place],
            {},
            START_S,
        )
        assert shown.returncode == 0, shown.stderr

    def close(self) -> None:
        """Kill whatever is in the box, wait until it is gone, and remove its control groups."""
        if self._unshare is None:
            return
        # The kernel ends all processes of the namespace before its first one counts as ended.
        for first in children_of(self._unshare.pid):
            os.kill(first, signal.SIGKILL)
        try:
            self._unshare.wait(START_S)
        finally:
            self._unshare.kill()
            self._unshare.wait()
            if self._unshare.stderr is not None:
                self._unshare.stderr.close()
            self._unshare = None
            remove_cgroups(self.name)

    def _inside(self, command: Sequence[str]) -> list[str]:
        assert self._unshare is not None, "the box is closed"
        (first,) = children_of(self._unshare.pid)
        # `ip netns exec` would mount /sys anew and hide the control groups from runc.
        return ["nsenter", f"--target={first}", "--pid", "--mount", "--net", "--", *command]

    def _ended(self) -> bool:
        return self._unshare is None or self._unshare.poll() is not None

    def _why(self) -> str:
        if self._unshare is None or self._unshare.stderr is None:
            return "the box was not started"
        return f"the box did not start: {self._unshare.stderr.read().decode().strip()}"


def cgroups_named(name: str) -> Iterator[Path]:
    """List the control groups of a box, in every hierarchy that is mounted, deepest first."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mounted, kind, *_ = line.split()
        if kind in {"cgroup", "cgroup2"} and (top := Path(mounted) / name).is_dir():
            below = (folder for folder in top.rglob("*") if folder.is_dir())
            yield from sorted(below, key=lambda folder: len(folder.parts), reverse=True)
            yield top


def remove_cgroups(name: str) -> None:
    """Remove the control groups that a box leaves, once its processes are gone.

    The kernel keeps a group busy for an instant after its last process has ended.
    """

    def gone() -> bool:
        for folder in list(cgroups_named(name)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not list(cgroups_named(name))

    wait_until(gone, START_S, f"the control groups of {name} are gone")


def leftovers(name: str, folder: Path) -> list[str]:
    """List what a box left on this machine: processes, mounts and control groups, one a line."""
    found = [f"control group {group}" for group in cgroups_named(name)]
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    found.extend(f"mount {mount}" for mount in mounts if str(folder) in mount)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder) in command:
                found.append(f"process {process.name}: {command}")
    return found
