"""What the lab's tests share: names of their own, and proof that nothing is left behind."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.lab import processes
from sim.lab.namespace import names_beginning
from sim.lab.plan import LabPlan, prefix_of

HERE = Path(__file__).parent
STUB_DAEMON = (sys.executable, str(HERE / "stub_daemon.py"))
STUB_PLUGIN = str(HERE / "stub_plugin.py")


@pytest.fixture
def name() -> str:
    """Return the name of a lab that no other process uses; runs of pytest may be parallel."""
    return f"t{os.getpid() % 10**10:x}"


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest, name: str) -> Iterator[None]:
    """Whatever a test does, namespaces, processes and the machine's own network are as before."""
    if request.node.get_closest_marker("root") is None or os.geteuid() != 0:
        yield
        return
    before = own_network()
    yield
    assert names_beginning(prefix_of(name)) == ()
    assert [pid for pid in processes._all() if is_of(pid, name)] == []
    assert own_network() == before


def own_network() -> str:
    """Return links, addresses, routes and rules of the namespace that the tests run in."""
    shown = [
        subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=True).stdout  # noqa: S603, S607 - a fixed program
        for words in ("-brief link", "-4 -brief address", "route", "rule")
    ]
    return "\n".join(shown)


def is_of(pid: int, name: str) -> bool:
    """Tell whether a process names this lab in its command line or its environment."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"/{name}".encode() in line or f"/{name}/node-".encode() in environment


@pytest.fixture
def plan(name: str, tmp_path: Path) -> LabPlan:
    """Return a plan of one node with the stub daemon and the stub plug-in."""
    return LabPlan(
        name=name,
        run_dir=tmp_path,
        latency=0,
        daemon=STUB_DAEMON,
        plugin=STUB_PLUGIN,
        ready_timeout_s=20,
    )
