"""ADD and DEL as a runtime pays for them: from the plug-in's fork to its exit, on a warm pool.

Our plug-in in Python and in C, and Debian's `ptp` with `host-local`, in alternation in one run, in
network namespaces of the lab. Needs root and what the lab needs. What dominates is written in
`benchmarks/README.md`.
"""

import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from sim.lab.lab import Lab, install_plugin
from sim.lab.namespace import Namespace
from sim.lab.plan import LabPlan

ROUNDS = 100
AT_ONCE = (20, 50)
BURSTS = 5
STOCK = Path("/usr/lib/cni")
PTP = {
    "cniVersion": "1.0.0",
    "name": "stock",
    "type": "ptp",
    "ipMasq": False,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.99.0.0/16"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    },
}
OURS = {"cniVersion": "1.0.0", "name": "aws-cni", "type": "aws-cni"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A plug-in with its configuration in a file, and the variables that all its commands have."""

    name: str
    program: Path
    config: Path
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Bench:
    """The node in which plug-ins run, and a folder for namespaces' names."""

    node: Namespace
    contenders: tuple[Contender, ...]
    folder: Path

    def start(self, contender: Contender, command: str, pod: Namespace, container: str) -> int:
        """Start a plug-in in this thread's namespace and return its process id."""
        variables = {
            **contender.variables,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(pod.path),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME={container[:20]}",
        }
        null = "/dev/null"
        said = str(self.folder / "said")
        return os.posix_spawn(
            contender.program,
            [str(contender.program)],
            variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, str(contender.config), os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, said if command == "ADD" else null, _OUT, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
            ],
        )

    def once(self, contender: Contender, command: str, pod: Namespace, container: str) -> float:
        """Run a plug-in and return milliseconds; RuntimeError where it fails."""
        began = time.perf_counter()
        pid = self.start(contender, command, pod, container)
        _, status = os.waitpid(pid, 0)
        took = (time.perf_counter() - began) * 1000
        if os.waitstatus_to_exitcode(status):
            said = (self.folder / "said").read_text(encoding="utf-8")
            raise RuntimeError(f"{contender.name} {command}: {said}")
        return took

    def at_once(
        self, contender: Contender, command: str, pods: list[Namespace], containers: list[str]
    ) -> tuple[float, list[float]]:
        """Run a plug-in for many pods; return the wall time and each one's, in milliseconds."""
        began = time.perf_counter()
        waiting = {
            self.start(contender, command, pod, container)
            for pod, container in zip(pods, containers, strict=True)
        }
        took = []
        while waiting:
            pid, status = os.wait()
            if pid in waiting:
                waiting.remove(pid)
                took.append((time.perf_counter() - began) * 1000)
                if os.waitstatus_to_exitcode(status):
                    raise RuntimeError(f"{contender.name} {command} failed")
        return took[-1], took


_OUT = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def measure() -> list[tuple[str, str, str]]:
    """Return rows of what, measured and wanted."""
    with tempfile.TemporaryDirectory(prefix="wb") as folder, _bench(Path(folder)) as bench:
        return bench.node.inside(lambda: [*_one_by_one(bench), *_all_at_once(bench)])


@contextmanager
def _bench(folder: Path) -> Iterator[Bench]:
    plan = LabPlan(
        name="bench",
        run_dir=folder,
        instance="m5.24xlarge",
        latency=0,
        settings={"WARM_IP_TARGET": "120", "IP_COOLDOWN_PERIOD": "1"},
    )
    with Lab(plan) as lab:
        node = lab.nodes[0]
        yield Bench(node.namespace, _contenders(folder, node.runtime.state_dir), folder)


def _contenders(folder: Path, state_dir: Path) -> tuple[Contender, ...]:
    ours, ptp = folder / "ours.json", folder / "ptp.json"
    ours.write_text(json.dumps(OURS), encoding="utf-8")
    conf = {**PTP, "ipam": {**PTP["ipam"], "dataDir": str(folder / "held")}}  # type: ignore[dict-item]
    ptp.write_text(json.dumps(conf), encoding="utf-8")
    contenders = []
    for kind in ("c", "python"):
        program = folder / f"aws-cni-{kind}"
        install_plugin(kind, program)
        contenders.append(Contender(kind, program, ours, {"WARMBENCH_STATE_DIR": str(state_dir)}))
    path = {"CNI_PATH": str(STOCK), "PATH": os.environ["PATH"]}
    return (*contenders, Contender("ptp", STOCK / "ptp", ptp, path))


@contextmanager
def _pods(count: int) -> Iterator[list[Namespace]]:
    pods = [Namespace(f"wb-bench-p{number}") for number in range(count)]
    for pod in pods:
        pod.create()
    try:
        yield pods
    finally:
        for pod in pods:
            pod.remove()


def _one_by_one(bench: Bench) -> Iterator[tuple[str, str, str]]:
    adds: dict[str, list[float]] = {one.name: [] for one in bench.contenders}
    dels: dict[str, list[float]] = {one.name: [] for one in bench.contenders}
    for _ in range(ROUNDS):
        for contender in bench.contenders:
            with _pods(1) as (pod,):
                container = secrets.token_hex(32)
                adds[contender.name].append(bench.once(contender, "ADD", pod, container))
                dels[contender.name].append(bench.once(contender, "DEL", pod, container))
    ptp = _p(adds["ptp"], 50)
    wanted: dict[str, Callable[[float], str]] = {
        "c": lambda p50: f"<= 1/3 of ptp's p50; it is {p50 / ptp:.2f}",
        "python": lambda p50: f"<= 1.1 of ptp's p50; it is {p50 / ptp:.2f}",
        "ptp": lambda _: "",
    }
    for name, took in adds.items():
        yield f"ADD, {name}: p50, p99", _shown(took), wanted[name](_p(took, 50))
    for name, took in dels.items():
        yield f"DEL, {name}: p50, p99", _shown(took), "p50 <= 3 ms" if name == "c" else ""


def _all_at_once(bench: Bench) -> Iterator[tuple[str, str, str]]:
    for count in AT_ONCE:
        walls: dict[str, list[float]] = {one.name: [] for one in bench.contenders}
        each: dict[str, list[float]] = {one.name: [] for one in bench.contenders}
        for _ in range(BURSTS):
            for contender in bench.contenders:
                with _pods(count) as pods:
                    containers = [secrets.token_hex(32) for _ in pods]
                    wall, took = bench.at_once(contender, "ADD", pods, containers)
                    walls[contender.name].append(wall)
                    each[contender.name] += took
                    bench.at_once(contender, "DEL", pods, containers)
                    # What was just released cools for a second, links go half a second later.
                    time.sleep(1.2)
        ptp = min(walls["ptp"])
        for name, measured in walls.items():
            shown = f"{min(measured):.0f} ms, one ADD's p99 {_p(each[name], 99):.0f} ms"
            wanted = "" if name == "ptp" else f"<= 0.5 of ptp's; it is {min(measured) / ptp:.2f}"
            yield f"{count} ADDs at once, {name}: best wall time of {BURSTS}", shown, wanted


def _p(values: list[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def _shown(values: list[float]) -> str:
    return f"{_p(values, 50):.2f} ms, {_p(values, 99):.2f} ms"


def available() -> str:
    """Return why this part cannot run here; empty where it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("ip", "nft", "cc") if shutil.which(name) is None]
    if not (STOCK / "ptp").exists():
        missing.append(f"{STOCK}/ptp (containernetworking-plugins)")
    return f"needs {', '.join(missing)}" if missing else ""


if __name__ == "__main__":
    for row in measure():
        print(" | ".join(row))
    sys.exit(0)
