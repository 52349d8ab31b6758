"""One network namespace: made, entered and removed; nothing outside of it is ever touched.

Every link, address, route and sysctl of the lab is set through a `Namespace`, so that no line
here can reach the machine's own network. Set-up speaks the words of the `ip` program, because
it is slow anyway and reads best. What must happen inside a namespace without a program (opening
a socket, writing a sysctl) runs in a thread that ends there: a thread that is thrown away need
not find its way back.
"""

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sim.lab.errors import LabError, MachineError

NETNS_DIR = Path("/run/netns")
"""Where the `ip` program keeps namespaces by name: `ip netns exec NAME` finds ours too."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for; a user's own PATH often lacks the sbin folders."""

_CLONE_NEWNET = 0x40000000
_IP_TIMEOUT_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace; methods raise LabError in one line."""

    name: str

    @property
    def path(self) -> Path:
        """The file that stands for the namespace, as a runtime gives it to a CNI plug-in."""
        return NETNS_DIR / self.name

    def create(self) -> None:
        """Make the namespace, with `lo` up."""
        done = _ip(["netns", "add", self.name])
        if done.returncode != 0:
            raise LabError(f"cannot make namespace {self.name}: {_said(done)}")
        self.ip("link set lo up")

    def remove(self) -> None:
        """Remove the namespace with the links in it; none there is fine."""
        done = _ip(["netns", "del", self.name])
        if done.returncode != 0 and self.path.exists():
            raise LabError(f"cannot remove namespace {self.name}: {_said(done)}")

    def ip(self, *lines: str) -> None:
        """Run lines of the `ip` program in here, in order; the first that fails ends it."""
        done = _ip(["-n", self.name, "-batch", "-"], "\n".join(lines) + "\n")
        if done.returncode != 0:
            raise LabError(f"in namespace {self.name}: {_failed_line(done.stderr, lines)}")

    def show(self, words: str) -> str:
        """Return what the `ip` program prints about this namespace."""
        done = _ip(["-n", self.name, *words.split()])
        if done.returncode != 0:
            raise LabError(f"in namespace {self.name}: ip {words}: {_said(done)}")
        return done.stdout

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the words that run a command in here.

        `nsenter`, not `ip netns exec`: that one mounts /sys anew, which hides the control groups
        from a container runtime.
        """
        return ["nsenter", f"--net={self.path}", "--", *words]

    def run(
        self,
        words: Sequence[str],
        *,
        timeout_s: float = 30.0,
        check: bool = True,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in here and return what it printed.

        Raises LabError where it takes longer, or, unless `check` is false, where it fails.
        """
        told = f"{' '.join(words)} in {self.name}"
        try:
            done = subprocess.run(
                self.command(words),
                input=stdin,
                env={"PATH": PATH, "LANG": "C.UTF-8"} | dict(environment or {}),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{told}: no end after {timeout_s:g} s") from error
        if check and done.returncode != 0:
            raise LabError(f"{told}: exit code {done.returncode}: {_said(done)}")
        return done

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of its own that has entered the namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                _set_namespace(self.path)
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
                errors.append(error)

        thread = threading.Thread(target=enter, name=f"in {self.name}", daemon=True)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def write_sysctls(self, values: Mapping[str, int]) -> None:
        """Set sysctls below /proc/sys/net, such as {"ipv4/ip_forward": 1}."""

        def write() -> None:
            for name, value in values.items():
                try:
                    Path("/proc/sys/net", name).write_text(f"{value}\n", encoding="ascii")
                except OSError as error:
                    raise LabError(
                        f"in namespace {self.name}: sysctl net/{name}={value}: {error.strerror}"
                    ) from error

        self.inside(write)

    def read_sysctl(self, name: str) -> str:
        """Return a sysctl below /proc/sys/net."""
        return self.inside(lambda: Path("/proc/sys/net", name).read_text(encoding="ascii").strip())

    def listen(self, address: str, port: int) -> socket.socket:
        """Open a listening TCP socket in here; it stays in here whoever accepts from it."""

        def open_socket() -> socket.socket:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(128)
                listener.setblocking(False)
            except OSError as error:
                listener.close()
                raise LabError(
                    f"cannot listen on {address}:{port} in {self.name}: {error.strerror}"
                ) from error
            return listener

        return self.inside(open_socket)


def names_beginning(prefix: str) -> tuple[str, ...]:
    """List the namespaces whose names begin so."""
    if not NETNS_DIR.is_dir():
        return ()
    return tuple(sorted(path.name for path in NETNS_DIR.iterdir() if path.name.startswith(prefix)))


def _set_namespace(path: Path) -> None:
    """Move this thread into a network namespace (setns(2)); Python has no call for it in 3.11."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"namespace {path.name} is gone: {error.strerror}") from error
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            raise LabError(f"cannot enter {path.name}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(fd)


def _ip(words: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the `ip` program."""
    try:
        return subprocess.run(
            ["ip", *words],
            input=stdin,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=_IP_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise MachineError("the program 'ip' is missing: install iproute2") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"ip {' '.join(words)}: no end after {_IP_TIMEOUT_S:g} s") from error


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Return what a program complained of, in one line."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return "; ".join(line.strip() for line in lines[-3:]) or "it said nothing"


def _failed_line(stderr: str, lines: Sequence[str]) -> str:
    """Name the line of a batch at which `ip` stopped; it says `Command failed -:3`."""
    said = stderr.strip().splitlines()
    _, colon, number = said[-1].rpartition(":") if said else ("", "", "")
    reason = said[0].removeprefix("RTNETLINK answers: ") if said else "it said nothing"
    if colon and number.isdigit() and 1 <= int(number) <= len(lines):
        return f"ip {lines[int(number) - 1]}: {reason}"
    return f"ip: {reason}"
