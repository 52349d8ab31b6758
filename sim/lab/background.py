"""A lab in a background process, seen from other processes: up, status, pods, down.

Everything is found again from names: the server by its command line, namespaces by their prefix,
processes by the namespace they are in. So `down` works from anywhere, after any crash, twice.
"""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.lab import processes
from sim.lab.errors import LabError
from sim.lab.fabric import remove_namespaces
from sim.lab.folder import remove_folder
from sim.lab.machine import require_machine, require_packages
from sim.lab.namespace import Namespace, names_beginning
from sim.lab.plan import LOG, PLAN, SOCKET, STATE, LabPlan, check_name, prefix_of
from sim.lab.pods import Pod, Runtime

_POLL_S = 0.05
_SERVER_PATIENCE_S = 25.0
_STATUS_TIMEOUT_S = 10.0
_SET_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class BackgroundLab:
    """A lab by its name, whether it is up or not."""

    name: str
    run_dir: Path

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def directory(self) -> Path:
        """Where everything of this lab is kept."""
        return self.run_dir / self.name

    @property
    def server_pid(self) -> int | None:
        """The background process, or None where none runs."""
        words = ("-m", "sim.lab.server", str(self.directory))
        return next(iter(processes.with_command(words)), None)

    # Up

    def up(
        self,
        plan: LabPlan,
        environment: Mapping[str, str],
        on_step: Callable[[str], None],
    ) -> None:
        """Start the lab and return when it is ready; `environment` is the server's.

        Raises ValueError where a lab of that name is up, LabError where it does not come up.
        Whatever interrupts it, nothing is left.
        """
        require_machine()
        require_packages()
        if self.server_pid is not None or names_beginning(prefix_of(self.name)):
            raise ValueError(
                f"a lab called {self.name!r} is up, or has left something behind:"
                " end it with `warmbench lab down`, or choose another --name"
            )
        try:
            remove_folder(self.directory)
            self.directory.mkdir(parents=True, mode=0o700)
            (self.directory / PLAN).write_text(plan.to_json(), encoding="utf-8")
            self._start(plan, environment, on_step)
        except BaseException:
            self.down()
            raise

    def _start(
        self, plan: LabPlan, environment: Mapping[str, str], on_step: Callable[[str], None]
    ) -> None:
        with (self.directory / LOG).open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "sim.lab.server", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd="/",
                # The lab outlives this terminal, and its Ctrl-C.
                start_new_session=True,
            )
        until = time.monotonic() + _SET_UP_S + plan.ready_timeout_s * plan.nodes
        told = 0
        while True:
            ended = server.poll() is not None
            state = self._state()
            for step in state["steps"][told:]:
                on_step(step)
            told = len(state["steps"])
            if state["phase"] == "ready":
                # It is init's child once this process ends; until then nobody waits for it.
                server.returncode = 0
                return
            if state["phase"] == "failed":
                raise LabError(state["error"])
            if ended:
                raise LabError(f"the lab's server ended: {self._last_words()}")
            if time.monotonic() > until:
                raise LabError(f"the lab was not ready in time: {self._last_words()}")
            time.sleep(_POLL_S)

    def _state(self) -> Mapping[str, Any]:
        try:
            told: Mapping[str, Any] = json.loads((self.directory / STATE).read_bytes())
        except (OSError, ValueError):
            return {"phase": "starting", "steps": [], "error": ""}
        return told

    def _last_words(self) -> str:
        text = (self.directory / LOG).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-15:]) or "it said nothing"

    # While it is up

    def plan(self) -> LabPlan:
        """Return the plan of the lab; LookupError where there is none."""
        try:
            return LabPlan.from_json((self.directory / PLAN).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise LookupError(
                f"no lab called {self.name!r} is up: start one with `warmbench lab up`"
            ) from error

    def status(self) -> dict[str, Any]:
        """Return what the server tells, and the pods of each node.

        Raises LookupError where there is no lab, LabError where its server is gone or silent.
        """
        self.plan()
        told = self._ask()
        for node in told["nodes"]:
            runtime = self.runtime(node["name"])
            node["pods"] = [
                {
                    "name": pod.name,
                    "address": str(pod.address) if pod.result else None,
                    "container_id": pod.container_id,
                    "namespace": pod.namespace.name,
                }
                for pod in runtime.pods()
            ]
        return told

    def _ask(self) -> dict[str, Any]:
        path = str(self.directory / SOCKET)
        connection = http.client.HTTPConnection("lab", timeout=_STATUS_TIMEOUT_S)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.settimeout(_STATUS_TIMEOUT_S)
            connection.sock.connect(path)
            connection.request("GET", "/status")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LabError(
                f"the server of lab {self.name!r} does not answer ({error}):"
                " end the lab with `warmbench lab down`"
            ) from error
        finally:
            connection.close()
        return told

    def runtimes(self) -> tuple[Runtime, ...]:
        """Return the container runtimes of the nodes, by number."""
        plan = self.plan()
        return tuple(
            Runtime(Namespace(f"{plan.prefix}{name}"), name, self.directory / name, plan.prefix)
            for name in (f"node-{index + 1}" for index in range(plan.nodes))
        )

    def runtime(self, node: str) -> Runtime:
        """Return the runtime of one node; LookupError where there is none."""
        found = {runtime.node_name: runtime for runtime in self.runtimes()}
        if node not in found:
            raise LookupError(f"no node {node!r}: the lab has {', '.join(found)}")
        return found[node]

    def emptiest(self) -> Runtime:
        """Return the runtime with the fewest pods, the first of equals."""
        return min(self.runtimes(), key=lambda runtime: len(runtime.pods()))

    def pod(self, name: str) -> tuple[Runtime, Pod]:
        """Return a pod and the runtime it is with; LookupError where there is none."""
        pods = {pod.name: (runtime, pod) for runtime in self.runtimes() for pod in runtime.pods()}
        if name not in pods:
            raise LookupError(f"no pod {name!r}: the lab has {', '.join(sorted(pods)) or 'none'}")
        return pods[name]

    def namespace(self, name: str) -> Namespace:
        """Return the namespace of a pod, a node, `vpc`, `internet` or `peer`."""
        plan = self.plan()
        for kind in (f"{plan.prefix}pod-{name}", f"{plan.prefix}{name}"):
            if Namespace(kind).path.exists():
                return Namespace(kind)
        raise LookupError(f"no pod or node {name!r}; there are also internet, peer and vpc")

    # Down

    def down(self) -> bool:
        """End and remove all that is left of the lab; tell whether there was anything.

        Works without a server, without files, and again.
        """
        require_machine()
        prefix = prefix_of(self.name)
        server = self.server_pid
        found = server is not None or bool(names_beginning(prefix)) or self.directory.exists()
        with _no_interrupt():
            if server is not None:
                processes.end([server], patience_s=_SERVER_PATIENCE_S)
            processes.end_all_in(names_beginning(prefix))
            remove_namespaces(prefix)
            remove_folder(self.directory)
        return found


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Let no Ctrl-C stop the cleaning up halfway; it is short."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
