"""One node of a lab: its namespace, its daemon as a process, its container runtime."""

import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sim.lab import processes
from sim.lab.errors import LabError
from sim.lab.namespace import Namespace
from sim.lab.pods import Pod, Runtime

LOG_LINES_SHOWN = 15
_END_PATIENCE_S = 10.0
_CONNECT_TIMEOUT_S = 1.0


@dataclass(slots=True, eq=False)
class LabNode:
    """A node; `daemon` are the words that start its daemon, `environment` its variables."""

    name: str
    instance_id: str
    namespace: Namespace
    runtime: Runtime
    daemon: Sequence[str]
    environment: Mapping[str, str]
    ready_timeout_s: float
    starts: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    # The daemon

    @property
    def log(self) -> Path:
        """The file with what the daemon has printed since the lab came up."""
        return self.runtime.directory / "daemon.log"

    @property
    def daemon_pid(self) -> int | None:
        """The daemon's process, or None where none runs."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start_daemon(self, *, wait: bool = True) -> None:
        """Start the daemon and, unless told otherwise, wait until it serves.

        Raises LabError with the last lines of its log where it ends or takes too long.
        """
        if self.daemon_pid is not None:
            raise LabError(f"the daemon of {self.name} runs already: kill it first")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.namespace.command(self.daemon),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.runtime.directory,
                env=dict(self.environment),
                # Ctrl-C on the lab's terminal is the lab's to handle: it ends daemons in order.
                start_new_session=True,
            )
        self.starts += 1
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the daemon has written its configuration list and accepts commands."""
        until = time.monotonic() + self.ready_timeout_s
        while not self.is_ready:
            if self._process is not None and (code := self._process.poll()) is not None:
                raise LabError(f"the daemon of {self.name} ended with {code}{self._last_words()}")
            if time.monotonic() > until:
                raise LabError(
                    f"the daemon of {self.name} was not ready after {self.ready_timeout_s:g} s"
                    f"{self._last_words()}"
                )
            time.sleep(processes.POLL_S)

    @property
    def is_ready(self) -> bool:
        """Whether a runtime finds the configuration list, and the plug-in a daemon."""
        if self.runtime.conf_list() is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_CONNECT_TIMEOUT_S)
            try:
                probe.connect(str(self.runtime.state_dir / "cni.sock"))
            except OSError:
                return False
        return True

    def kill_daemon(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send the daemon a signal and return its exit code, negative for a signal.

        Raises LabError where it still runs ten seconds later.
        """
        if self._process is None:
            raise LabError(f"the daemon of {self.name} was never started")
        self._process.send_signal(number)
        try:
            return self._process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise LabError(
                f"the daemon of {self.name} still runs {_END_PATIENCE_S:g} s after {number.name}"
                f"{self._last_words()}"
            ) from error

    def end_daemon(self) -> None:
        """End the daemon by SIGTERM, or by SIGKILL where it does not listen."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = LOG_LINES_SHOWN) -> str:
        """Return the last lines of the daemon's log."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _last_words(self) -> str:
        tail = self.log_tail()
        return f"; its last words were\n{tail}" if tail else "; it printed nothing"

    # Pods

    @property
    def pods(self) -> tuple[Pod, ...]:
        """The pods of this node, by name."""
        return self.runtime.pods()

    def add_pod(self, name: str) -> Pod:
        """Make a pod with ADD; see `Runtime.add`."""
        return self.runtime.add(name)

    def delete_pod(self, pod: Pod | str) -> None:
        """Delete a pod with DEL, twice; see `Runtime.delete`."""
        self.runtime.delete(pod if isinstance(pod, str) else pod.name)

    def check_pod(self, pod: Pod) -> None:
        """Call CHECK for a pod; see `Runtime.check`."""
        self.runtime.check(pod)

    def run(
        self, words: Sequence[str], *, timeout_s: float = 30.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node's network; LabError where it fails or takes longer."""
        return self.namespace.run(words, timeout_s=timeout_s, check=check)
